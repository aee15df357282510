//! What is truly a member's own. The imports here are what members are made of; each takes them all.

pub mod characters;
pub mod distillation;
pub mod electra;
pub mod elmo;
pub mod fasttext;
pub mod glove;
pub mod mobilebert;
pub mod mockingjay;
pub mod q8bert;
pub mod reformer;
pub mod seq2seq;
pub mod transformer_xl;
pub mod unilm;
pub mod wav2vec2;
pub mod word2vec;
pub mod xlnet;

use crate::attention::{Heads, Mask};
use crate::block::{FeedForward, Layer, Place, Seen, Sublayer};
use crate::embeddings::Embeddings;
use crate::generate::{Begun, Generator};
use crate::heads::TokenLogits;
use crate::network::{Built, Member, Network, Pooler, member};
use crate::ops::Activation;
use crate::parts::{Linear, Norm, NormKind, Order};
use crate::sizes::Sizes;
use crate::stack::{LAYER, Stack, last, read_feed};
use crate::traits::Traits;
use crate::{
    Cache, Config, Device, Error, Inputs, Ints, Outputs, Result, Tensor, Weights, each, ensure,
    generate, ops, reject, require, when,
};
