//! The `params` of a problem file.

use crate::failure::{Failure, Result};
use crate::strict_json::{self, Json};
use longhand::{Shape, Window};

/// What `params` of op `full` says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Params {
    /// `layout` is `"varlen"`.
    pub varlen: bool,
    /// The six sizes.
    pub shape: Shape,
    /// `scale`.
    pub scale: f64,
    /// `causal`.
    pub causal: bool,
    /// `window`, −1 read as no limit.
    pub window: Window,
    /// `softcap`.
    pub softcap: f64,
}

const KEYS: [&str; 11] = [
    "layout", "batch", "heads_q", "heads_kv", "head_dim", "seqlen_q", "seqlen_k", "scale",
    "causal", "window", "softcap",
];

/// Reads the JSON text of `params`; unknown keys are errors, those with a default may be absent.
pub fn read_params(text: &str) -> Result<Params> {
    let json = strict_json::parse(text)
        .map_err(|e| Failure::input(format!("__metadata__.params: not JSON: {e}")))?;
    let Json::Object(entries) = json else {
        let message = format!("__metadata__.params = {json}: must be a JSON object");
        return Err(Failure::input(message));
    };
    if let Some((key, _)) = entries.iter().find(|(key, _)| !KEYS.contains(&key.as_str())) {
        let message = format!("params.{key}: unknown; op 'full' has {}", KEYS.join(", "));
        return Err(Failure::input(message));
    }
    let p = Entries(&entries);
    Ok(Params {
        varlen: p.layout()?,
        shape: Shape {
            batch: p.size("batch")?,
            heads_q: p.size("heads_q")?,
            heads_kv: p.size("heads_kv")?,
            seqlen_q: p.size("seqlen_q")?,
            seqlen_k: p.size("seqlen_k")?,
            head_dim: p.size("head_dim")?,
        },
        scale: p.number("scale", None)?,
        causal: p.flag("causal", false)?,
        window: p.window()?,
        softcap: p.number("softcap", Some(0.0))?,
    })
}

struct Entries<'a>(&'a [(String, Json)]);

impl Entries<'_> {
    fn get(&self, key: &str) -> Option<&Json> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    fn wrong<T>(&self, key: &str, rule: &str) -> Result<T> {
        Err(Failure::input(match self.get(key) {
            Some(value) => format!("params.{key} = {value}: must be {rule}"),
            None => format!("params.{key} is absent: must be {rule}"),
        }))
    }

    fn size(&self, key: &str) -> Result<usize> {
        match self.get(key) {
            Some(&Json::Integer(n)) if (0..1 << 31).contains(&n) => Ok(n as usize),
            _ => self.wrong(key, "an integer from 0 to 2147483647"),
        }
    }

    fn number(&self, key: &str, default: Option<f64>) -> Result<f64> {
        match (self.get(key), default) {
            (Some(&Json::Integer(n)), _) => Ok(n as f64),
            (Some(&Json::Float(x)), _) if x.is_finite() => Ok(x),
            (None, Some(x)) => Ok(x),
            _ => self.wrong(key, "a number"),
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            Some(&Json::Bool(b)) => Ok(b),
            None => Ok(default),
            _ => self.wrong(key, "true or false"),
        }
    }

    fn layout(&self) -> Result<bool> {
        match self.get("layout") {
            None => Ok(false),
            Some(Json::Text(s)) if s == "padded" => Ok(false),
            Some(Json::Text(s)) if s == "varlen" => Ok(true),
            _ => self.wrong("layout", "\"padded\" or \"varlen\""),
        }
    }

    fn window(&self) -> Result<Window> {
        let side = |json: &Json| match *json {
            Json::Integer(-1) => Some(None),
            Json::Integer(n) if (0..1 << 31).contains(&n) => Some(Some(n as usize)),
            _ => None,
        };
        match self.get("window") {
            None => Ok(Window::FULL),
            Some(Json::Array(sides)) if sides.len() == 2 => {
                match (side(&sides[0]), side(&sides[1])) {
                    (Some(left), Some(right)) => Ok(Window { left, right }),
                    _ => self.wrong("window", WINDOW_RULE),
                }
            }
            _ => self.wrong("window", WINDOW_RULE),
        }
    }
}

const WINDOW_RULE: &str = "[left, right], integers from -1 (no limit) to 2147483647";
