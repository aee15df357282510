//! A model folder.

use crate::network::Member;
use crate::traits::Traits;
use crate::weights::Progress;
use crate::{
    Config, Device, Error, Generation, Generator, Inputs, Outputs, Result, Rules, Tensor, Weights,
    family, require,
};
use std::path::Path;

/// A model, read from a folder of `config.json` and `model.safetensors`.
pub struct Model {
    member: Box<dyn Member>,
    traits: &'static Traits,
    /// What the folder says of continuing.
    rules: Result<Rules>,
}

impl Model {
    /// Reads a folder.
    ///
    /// # Errors
    ///
    /// If a file is absent or damaged, `model_type` is unknown, an option is not supported, or a
    /// parameter is absent, misshapen or not one of the model's.
    pub fn open(folder: &Path) -> Result<Self> {
        Model::open_with(folder, Box::new(|_, _| ()))
    }

    /// As [`open`](Self::open); `each` hears of every parameter: bytes read so far, and of all.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open_with(folder: &Path, each: Progress) -> Result<Self> {
        let at = |e: Error| e.at(folder.display());
        require(folder.is_dir(), || at(Error::input("not a folder")))?;
        let config = Config::read(&folder.join("config.json"))?;
        let has_weights = family::row(&config).map_err(at)?.has_weights;
        let weights = if has_weights { Weights::open(folder, each)? } else { Weights::none() };
        let mut model = Model::read(&config, &weights).map_err(at)?;
        let name = "generation_config.json";
        if folder.join(name).is_file() {
            let said = Config::read(&folder.join(name))?;
            let rules = Rules::said_by(&said).and_then(|rules| said.finish().map(|()| rules));
            model.rules = rules.map_err(|e| e.at(name));
        }
        Ok(model)
    }

    /// Reads a model from the contents of `config.json` and `model.safetensors`, for programs that
    /// carry one inside.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_bytes(config: &str, weights: &[u8]) -> Result<Self> {
        let config = Config::parse(config).map_err(|e| e.at("config.json"))?;
        let weights = Weights::from_bytes(weights).map_err(|e| e.at("model.safetensors"))?;
        Model::read(&config, &weights)
    }

    fn read(config: &Config, weights: &Weights) -> Result<Self> {
        let traits = family::row(config)?;
        let member = (traits.read)(traits, config, weights)?;
        let rules = Rules::said_by(config).map_err(|e| e.at("config.json"));
        config.finish()?;
        weights.finish()?;
        Ok(Model { member, traits, rules })
    }

    /// Options with the rules that the folder gives, `generation_config.json` or, where there is none,
    /// `config.json`, and with what ends a sequence by either.
    ///
    /// # Errors
    ///
    /// If that asks for what nobody supports, such as beams.
    pub fn completed(&self, options: &Generation) -> Result<Generation> {
        let mut rules = self.rules.clone()?;
        rules.stop.extend(&options.rules.stop);
        Ok(Generation { rules, ..options.clone() })
    }

    pub(crate) fn generator(&self) -> Result<&dyn Generator> {
        let kind = self.traits.model_type;
        let declined = || Error::declined(format_args!("a model of type {kind} does not generate"));
        self.member.generator().ok_or_else(declined)
    }

    /// Its row of the family's table.
    pub fn traits(&self) -> &'static Traits {
        self.traits
    }

    /// Every result that the inputs allow.
    ///
    /// # Errors
    ///
    /// If an input is absent, misshapen or out of range, or the device fails.
    pub fn forward(&self, inputs: &Inputs, device: &Device) -> Result<Outputs> {
        device.finish(self.member.forward(inputs, device), Outputs::tensors)
    }

    /// The last states of the tokens; see [`Member::encode`].
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward), and if the model has no such states.
    pub fn encode(&self, inputs: &Inputs, device: &Device) -> Result<Tensor> {
        device.finish(self.member.encode(inputs, device), |states| vec![states])
    }
}
