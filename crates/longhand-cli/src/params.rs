//! The `params` of a problem file.

use crate::failure::{Failure, Result};
use crate::strict_json::{self, Json};
use longhand::full::Buckets;
use longhand::lsh::Wrap;
use longhand::transformer_xl::Chunks;
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
    let entries = entries(text, "full", &KEYS)?;
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

/// What `params` of op `longformer` says.
#[derive(Debug, Clone, PartialEq)]
pub struct LongformerParams {
    /// Sequences.
    pub batch: usize,
    /// Positions.
    pub seqlen: usize,
    /// Heads.
    pub heads: usize,
    /// Elements of a row.
    pub head_dim: usize,
    /// `scale`.
    pub scale: f64,
    /// Keys on each side.
    pub window: (usize, usize),
    /// Per head; empty: all 1.
    pub dilation: Vec<u32>,
    /// `causal`.
    pub causal: bool,
}

const LONGFORMER_KEYS: [&str; 8] =
    ["batch", "seqlen", "heads", "head_dim", "scale", "window", "dilation", "causal"];

/// Reads the JSON text of `params` of op `longformer`.
pub fn read_longformer_params(text: &str) -> Result<LongformerParams> {
    let entries = entries(text, "longformer", &LONGFORMER_KEYS)?;
    let p = Entries(&entries);
    Ok(LongformerParams {
        batch: p.size("batch")?,
        seqlen: p.size("seqlen")?,
        heads: p.size("heads")?,
        head_dim: p.size("head_dim")?,
        scale: p.number("scale", None)?,
        window: p.sides()?,
        dilation: p.dilation()?,
        causal: p.flag("causal", false)?,
    })
}

/// What `params` of op `lsh` says.
#[derive(Debug, Clone, PartialEq)]
pub struct LshParams {
    /// Sequences.
    pub batch: usize,
    /// Positions.
    pub seqlen: usize,
    /// Heads.
    pub heads: usize,
    /// Elements of a row.
    pub head_dim: usize,
    /// `scale`.
    pub scale: f64,
    /// `causal`.
    pub causal: bool,
    /// Items of a chunk.
    pub chunk_len: usize,
    /// Rounds.
    pub num_hashes: usize,
    /// Factors.
    pub num_buckets: Vec<usize>,
    /// Chunks seen before a position's own.
    pub chunks_before: usize,
    /// Chunks seen after it.
    pub chunks_after: usize,
    /// `key_norm_eps`.
    pub key_norm_eps: f64,
    /// `self_mask_value`.
    pub self_mask_value: f64,
    /// `mask_value`.
    pub mask_value: f64,
    /// `wrap`.
    pub wrap: Wrap,
    /// `duplicates_once`.
    pub duplicates_once: bool,
}

const LSH_KEYS: [&str; 16] = [
    "batch",
    "seqlen",
    "heads",
    "head_dim",
    "scale",
    "causal",
    "chunk_len",
    "num_hashes",
    "num_buckets",
    "chunks_before",
    "chunks_after",
    "key_norm_eps",
    "self_mask_value",
    "mask_value",
    "wrap",
    "duplicates_once",
];

/// Reads the JSON text of `params` of op `lsh`.
pub fn read_lsh_params(text: &str) -> Result<LshParams> {
    let entries = entries(text, "lsh", &LSH_KEYS)?;
    let p = Entries(&entries);
    Ok(LshParams {
        batch: p.size("batch")?,
        seqlen: p.size("seqlen")?,
        heads: p.size("heads")?,
        head_dim: p.size("head_dim")?,
        scale: p.number("scale", None)?,
        causal: p.flag("causal", false)?,
        chunk_len: p.size("chunk_len")?,
        num_hashes: p.size("num_hashes")?,
        num_buckets: p.factors()?,
        chunks_before: p.size_or("chunks_before", 1)?,
        chunks_after: p.size_or("chunks_after", 0)?,
        key_norm_eps: p.number("key_norm_eps", Some(1e-6))?,
        self_mask_value: p.number("self_mask_value", Some(-1e5))?,
        mask_value: p.number("mask_value", Some(-1e9))?,
        wrap: p.wrap()?,
        duplicates_once: p.flag("duplicates_once", false)?,
    })
}

/// What `params` of the ops with relative positions says.
#[derive(Debug, Clone, PartialEq)]
pub struct RelativeParams {
    /// Sequences.
    pub batch: usize,
    /// Queries.
    pub seqlen_q: usize,
    /// Keys, those of the memory first.
    pub seqlen_k: usize,
    /// Heads.
    pub heads: usize,
    /// Elements of a row.
    pub head_dim: usize,
    /// `scale`.
    pub scale: f64,
    /// `window`, or what `causal` and `same_length` make of it.
    pub window: Window,
    /// `chunk_size` and `left_chunks`.
    pub chunks: Option<Chunks>,
    /// `clamp_len`.
    pub clamp_len: Option<usize>,
    /// `distance_offset`.
    pub distance_offset: usize,
    /// The content stream of op `xlnet`.
    pub own_position: bool,
    /// `streams`.
    pub streams: usize,
}

const RELATIVE_KEYS: [&str; 6] = ["batch", "seqlen_q", "seqlen_k", "heads", "head_dim", "scale"];
const TRANSFORMER_XL_KEYS: [&str; 6] =
    ["causal", "mlen", "mem_len", "same_length", "clamp_len", "distance_offset"];
const XLNET_KEYS: [&str; 6] =
    ["causal", "mlen", "same_length", "clamp_len", "distance_offset", "streams"];
const REL_POS_KEYS: [&str; 5] =
    ["causal", "window", "chunk_size", "left_chunks", "distance_offset"];

/// Reads the JSON text of `params` of op `transformer_xl`, `xlnet` or `rel_pos`.
pub fn read_relative_params(text: &str, op: &str) -> Result<RelativeParams> {
    let own: &[&str] = match op {
        "transformer_xl" => &TRANSFORMER_XL_KEYS,
        "xlnet" => &XLNET_KEYS,
        _ => &REL_POS_KEYS,
    };
    let entries = entries(text, op, &[&RELATIVE_KEYS, own].concat())?;
    let p = Entries(&entries);
    let (seqlen_q, seqlen_k) = (p.size("seqlen_q")?, p.size("seqlen_k")?);
    let memory = seqlen_k.saturating_sub(seqlen_q);
    if op != "rel_pos" {
        let mlen = p.size_or("mlen", memory)?;
        if seqlen_q.checked_add(mlen) != Some(seqlen_k) {
            return p.wrong("mlen", "seqlen_k - seqlen_q");
        }
    }
    let causal = p.flag("causal", op == "transformer_xl")?;
    if causal != (op == "transformer_xl") && op != "xlnet" {
        return p.wrong("causal", "true in op transformer_xl and false in op rel_pos");
    }
    let same_length = p.flag("same_length", false)?;
    // The most distant key that is seen: the two ops differ by one, and in which memory counts.
    let left = match (op, same_length && causal) {
        (_, false) => None,
        ("xlnet", _) => Some(memory),
        _ => match p.size_or("mem_len", memory)?.checked_sub(1) {
            None => return p.wrong("mem_len", "positive with same_length"),
            left => left,
        },
    };
    let window = match op {
        "rel_pos" => p.window()?,
        _ => Window { left, right: causal.then_some(0) },
    };
    let chunks = match p.size_or("chunk_size", 0)? {
        0 => None,
        size => Some(Chunks { size, left: p.optional("left_chunks", -1)? }),
    };
    let clamp_len = p.optional("clamp_len", -1)?.filter(|&n| n > 0);
    let offset = match op {
        "transformer_xl" => Some(0),
        "rel_pos" => Some(seqlen_q.saturating_sub(1)),
        _ => None,
    };
    let distance_offset = match offset {
        Some(default) => p.size_or("distance_offset", default)?,
        None => p.size("distance_offset")?,
    };
    let streams = p.size_or("streams", 1)?;
    if !(1..=2).contains(&streams) {
        return p.wrong("streams", "1 or 2");
    }
    Ok(RelativeParams {
        batch: p.size("batch")?,
        seqlen_q,
        seqlen_k,
        heads: p.size("heads")?,
        head_dim: p.size("head_dim")?,
        scale: p.number("scale", None)?,
        window,
        chunks,
        clamp_len,
        distance_offset,
        own_position: op == "xlnet",
        streams,
    })
}

const T5_KEYS: [&str; 10] = [
    "batch",
    "seqlen_q",
    "seqlen_k",
    "heads",
    "head_dim",
    "scale",
    "causal",
    "bidirectional",
    "num_buckets",
    "max_distance",
];

/// Reads the JSON text of `params` of op `t5_bias`: full attention's, and its buckets.
pub fn read_t5_params(text: &str) -> Result<(Params, Buckets)> {
    let entries = entries(text, "t5_bias", &T5_KEYS)?;
    let p = Entries(&entries);
    let heads = p.size("heads")?;
    let params = Params {
        varlen: false,
        shape: Shape {
            batch: p.size("batch")?,
            heads_q: heads,
            heads_kv: heads,
            seqlen_q: p.size("seqlen_q")?,
            seqlen_k: p.size("seqlen_k")?,
            head_dim: p.size("head_dim")?,
        },
        scale: p.number("scale", Some(1.0))?,
        causal: p.flag("causal", false)?,
        window: Window::FULL,
        softcap: 0.0,
    };
    let buckets = Buckets {
        num_buckets: p.size_or("num_buckets", 32)?,
        max_distance: p.size_or("max_distance", 128)?,
        bidirectional: p.flag("bidirectional", true)?,
    };
    Ok((params, buckets))
}

/// The object that `params` must be, without unknown keys.
fn entries(text: &str, op: &str, keys: &[&str]) -> Result<Vec<(String, Json)>> {
    let json = strict_json::parse(text)
        .map_err(|e| Failure::input(format!("__metadata__.params: not JSON: {e}")))?;
    let Json::Object(entries) = json else {
        let message = format!("__metadata__.params = {json}: must be a JSON object");
        return Err(Failure::input(message));
    };
    if let Some((key, _)) = entries.iter().find(|(key, _)| !keys.contains(&key.as_str())) {
        let message = format!("params.{key}: unknown; op '{op}' has {}", keys.join(", "));
        return Err(Failure::input(message));
    }
    Ok(entries)
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

    fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.get(key).is_some() { self.size(key) } else { Ok(default) }
    }

    /// An integer of which −1 says that there is none.
    fn optional(&self, key: &str, default: i64) -> Result<Option<usize>> {
        match self.get(key) {
            Some(&Json::Integer(n)) if (-1..1 << 31).contains(&n) => Ok(usize::try_from(n).ok()),
            None => Ok(usize::try_from(default).ok()),
            _ => self.wrong(key, "an integer from -1 (none) to 2147483647"),
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

    /// `window` where both sides have a limit.
    fn sides(&self) -> Result<(usize, usize)> {
        let side = |json: &Json| match *json {
            Json::Integer(n) if (0..1 << 31).contains(&n) => Some(n as usize),
            _ => None,
        };
        match self.get("window") {
            Some(Json::Array(sides)) if sides.len() == 2 => {
                match (side(&sides[0]), side(&sides[1])) {
                    (Some(left), Some(right)) => Ok((left, right)),
                    _ => self.wrong("window", SIDES_RULE),
                }
            }
            _ => self.wrong("window", SIDES_RULE),
        }
    }

    fn factors(&self) -> Result<Vec<usize>> {
        let one = |json: &Json| match *json {
            Json::Integer(n) if (1..1 << 31).contains(&n) => Some(n as usize),
            _ => None,
        };
        let all = match self.get("num_buckets") {
            Some(Json::Array(all)) => all.iter().map(one).collect::<Option<Vec<usize>>>(),
            _ => None,
        };
        match all {
            Some(all) if !all.is_empty() => Ok(all),
            _ => self.wrong("num_buckets", "even integers, the factors, at least one"),
        }
    }

    fn wrap(&self) -> Result<Wrap> {
        match self.get("wrap") {
            None => Ok(Wrap::AcrossRounds),
            Some(Json::Text(s)) if s == "across_rounds" => Ok(Wrap::AcrossRounds),
            Some(Json::Text(s)) if s == "per_round" => Ok(Wrap::PerRound),
            _ => self.wrong("wrap", "\"across_rounds\" or \"per_round\""),
        }
    }

    fn dilation(&self) -> Result<Vec<u32>> {
        let one = |json: &Json| match *json {
            Json::Integer(n) if (1..1 << 31).contains(&n) => Some(n as u32),
            _ => None,
        };
        let all = match self.get("dilation") {
            None => return Ok(Vec::new()),
            Some(Json::Array(all)) => all.iter().map(one).collect::<Option<Vec<u32>>>(),
            _ => None,
        };
        match all {
            Some(all) => Ok(all),
            None => self.wrong("dilation", "integers from 1 to 2147483647, one per head"),
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
const SIDES_RULE: &str = "[left, right], integers from 0 to 2147483647";
