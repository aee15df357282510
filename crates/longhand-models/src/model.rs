//! A model folder.

use crate::network::Member;
use crate::{Config, Device, Error, Inputs, Outputs, Result, Tensor, Weights, family};
use std::path::Path;

/// A model, read from a folder of `config.json` and `model.safetensors`.
pub struct Model {
    member: Box<dyn Member>,
    traits: &'static family::Traits,
}

impl Model {
    /// Reads a folder.
    ///
    /// # Errors
    ///
    /// If a file is absent or damaged, `model_type` is unknown, an option is not supported, or a
    /// parameter is absent, misshapen or not one of the model's.
    pub fn open(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::input(format!("{}: not a folder", folder.display())));
        }
        let config = Config::open(folder)?;
        let at = |e: Error| e.at(folder.display());
        let traits = family::row(&config).map_err(at)?;
        let weights = match traits.has_weights {
            true => Weights::open(folder)?,
            false => Weights::none(),
        };
        let member = (traits.read)(traits, &config, &weights).map_err(at)?;
        config.finish().map_err(at)?;
        weights.finish(TIED).map_err(at)?;
        Ok(Model { member, traits })
    }

    /// Its row of the family's table.
    pub fn traits(&self) -> &'static family::Traits {
        self.traits
    }

    /// Every result that the inputs allow.
    ///
    /// # Errors
    ///
    /// If an input is absent, misshapen or out of range.
    pub fn forward(&self, inputs: &Inputs, device: &Device) -> Result<Outputs> {
        self.member.forward(inputs, device)
    }

    /// The last states of the tokens; see [`Member::encode`].
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward), and if the model has no such states.
    pub fn encode(&self, inputs: &Inputs, device: &Device) -> Result<Tensor> {
        self.member.encode(inputs, device)
    }
}

/// Second names of tied parameters, which some files store and which say nothing new.
const TIED: &[&str] = &[
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
    "predictions.decoder.weight",
    "predictions.decoder.bias",
    "lm_head.decoder.weight",
    "lm_head.decoder.bias",
    "lm_head.weight",
    "generator_lm_head.weight",
    "vocab_projector.weight",
    "lm_loss.weight",
];
