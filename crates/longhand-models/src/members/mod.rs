//! What is truly a member's own.

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
