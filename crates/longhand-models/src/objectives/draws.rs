//! The random numbers of a rule.

use super::*;
use crate::ops;
use longhand::random;

/// Random numbers from a seed, the same on every machine: outputs 0, 1, … of SplitMix64, of each
/// the upper 53 bits (see [`longhand::random`]).
#[derive(Debug, Clone)]
pub struct Random {
    seed: u64,
    next: u64,
}

impl Random {
    /// The numbers that follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Random { seed, next: 0 }
    }

    /// Numbers for the draws of that name, which do not depend on what else is drawn: those of
    /// `seed ^ fnv1a(name)`.
    pub fn named(seed: u64, name: &str) -> Self {
        Random::new(seed ^ u64::from(fnv1a(name.as_bytes())))
    }

    /// The next number in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.next += 1;
        random::uniform(self.seed, self.next - 1)
    }

    /// The next number with Gumbel's distribution (see [`longhand::random::gumbel`]).
    pub fn gumbel(&mut self) -> f64 {
        self.next += 1;
        random::gumbel(self.seed, self.next - 1)
    }

    /// The next whole number below `end`, `⌊uniform · end⌋`; 0 if `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.uniform() * end as f64) as usize
    }

    /// A permutation of 0 … n − 1 (Fisher and Yates, from the end).
    pub fn order(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// FNV-1a in 32 bits, with bytes from 128 as negative numbers: fastText's hash, whose first
/// program had signed characters (Bojanowski et al., 2017, §3.2).
pub fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(2_166_136_261, |h, &b| (h ^ b as i8 as u32).wrapping_mul(16_777_619))
}

/// Draws by name: given among the inputs, or else from their `seed`. What is given may be longer
/// than needed.
pub struct Draws<'a> {
    /// All inputs.
    pub inputs: &'a Inputs,
    seed: Option<u64>,
}

impl<'a> Draws<'a> {
    /// Draws from these inputs.
    ///
    /// # Errors
    ///
    /// If `seed` is not one integer.
    pub fn new(inputs: &'a Inputs) -> Result<Self> {
        let seed = inputs.optional_ints("seed", &[1])?.map(|seed| i64::from(seed.data[0]) as u64);
        Ok(Draws { inputs, seed })
    }

    /// Numbers in [0, 1).
    ///
    /// # Errors
    ///
    /// If there are neither numbers nor a seed, or not as many, or one is out of range.
    pub fn uniforms(&self, name: &str, shape: &[usize]) -> Result<Vec<f64>> {
        if let Some(mut random) = self.random(name, shape)? {
            return Ok((0..shape.iter().product()).map(|_| random.uniform()).collect());
        }
        let given = self.inputs.floats(name)?;
        let bad = |x| Error::invalid(format!("an element of {name:?}"), x, "must be in [0, 1)");
        reject(given.data().iter().find(|x| !(0.0..1.0).contains(*x)), bad)?;
        let cut = crop(name, given.data(), given.shape(), shape)?;
        Ok(cut.into_iter().map(f64::from).collect())
    }

    /// Gumbel noise, of any size.
    ///
    /// # Errors
    ///
    /// As [`uniforms`](Self::uniforms).
    pub fn gumbel(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        if let Some(mut random) = self.random(name, shape)? {
            let noise = (0..shape.iter().product()).map(|_: usize| random.gumbel() as f32);
            return Ok(Tensor::new(shape, noise.collect()));
        }
        let given = self.inputs.floats(name)?;
        Ok(Tensor::new(shape, crop(name, given.data(), given.shape(), shape)?))
    }

    /// Whole numbers below `end`.
    ///
    /// # Errors
    ///
    /// As [`uniforms`](Self::uniforms).
    pub fn below(&self, name: &str, shape: &[usize], end: usize) -> Result<Vec<i32>> {
        if let Some(mut random) = self.random(name, shape)? {
            return Ok((0..shape.iter().product()).map(|_| random.below(end) as i32).collect());
        }
        let given = self.inputs.ints(name)?;
        given.indices(name, end)?;
        crop(name, &given.data, &given.shape, shape)
    }

    /// Permutations of 0 … n − 1, where n is the last size. A longer one, without what is not
    /// below n, is one too.
    ///
    /// # Errors
    ///
    /// As [`uniforms`](Self::uniforms), and if one is no permutation.
    pub fn orders(&self, name: &str, shape: &[usize]) -> Result<Vec<usize>> {
        let n = shape.last().copied().unwrap_or(0);
        if let Some(mut random) = self.random(name, shape)? {
            let rows = shape[..shape.len() - 1].iter().product();
            return Ok((0..rows).flat_map(|_: usize| random.order(n)).collect());
        }
        let given = self.inputs.ints(name)?;
        let length = given.shape.last().copied().unwrap_or(0);
        let ids = given.indices(name, length)?;
        for order in ids.chunks(length.max(1)) {
            let mut seen = vec![false; length];
            let rule = "is there twice: a row must be a permutation";
            let bad = |twice| Error::invalid(format!("an element of {name:?}"), twice, rule);
            reject(order.iter().find(|&&x| std::mem::replace(&mut seen[x], true)), bad)?;
        }
        let whole = ops::with_width(shape, length.max(n));
        let rows = crop(name, &ids, &given.shape, &whole)?;
        Ok(rows.into_iter().filter(|&x| x < n).collect())
    }

    /// The generator of a draw that is not given. What is empty needs none.
    fn random(&self, name: &str, shape: &[usize]) -> Result<Option<Random>> {
        const MOST: usize = 1 << 28;
        let count = shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
        let needed = self.seed.filter(|_| !self.inputs.has(name));
        let seed = if count == Some(0) { Some(0) } else { needed };
        let rule = format!("more than {MOST} numbers are not drawn");
        let fits = seed.is_none() || count.is_some_and(|n| n <= MOST);
        require(fits, || Error::shape(format_args!("{name:?}"), shape, rule))?;
        Ok(seed.map(|seed| Random::named(seed, name)))
    }
}

/// The first `want` of `have` elements along each dimension.
fn crop<T: Copy>(name: &str, data: &[T], have: &[usize], want: &[usize]) -> Result<Vec<T>> {
    let fits = have.len() == want.len() && have.iter().zip(want).all(|(h, w)| h >= w);
    let fits = fits && (want.len() < 2 || have.first() == want.first());
    let rule = format!("must be {want:?} or longer");
    require(fits, || Error::shape(format_args!("input {name:?}"), have, rule))?;
    Ok(cut(data, have, want))
}

fn cut<T: Copy>(data: &[T], have: &[usize], want: &[usize]) -> Vec<T> {
    match (have, want) {
        ([h, have @ ..], [w, want @ ..]) => {
            let size = (data.len() / h.max(&1)).max(1);
            data.chunks(size).take(*w).flat_map(|part| cut(part, have, want)).collect()
        }
        _ => data.to_vec(),
    }
}
