//! What a file's results may be off by, from several orders of summation.

use crate::compare::{Measure, tolerance};
use crate::failure::Result;
use crate::naive;
use crate::problem_file::ProblemFile;
use crate::transformer_xl_inputs::Stream;
use longhand::DType;
use std::collections::BTreeMap;

/// [`naive::tolerances`], but of lse in f32 the largest over several orders of summation. An lse is
/// little but the error of its products, and the largest error of few numbers is a matter of luck: so
/// there are as many orders as it takes to see [`SEEN`] numbers. For files that nobody has looked at;
/// those of the suite pass without.
pub(crate) fn tolerances(
    file: &ProblemFile,
    dtype: DType,
    backward: bool,
) -> Result<BTreeMap<String, f64>> {
    let reference = naive::reference(file, backward)?;
    let mut tolerances = naive::tolerances_by(file, dtype, &reference)?;
    if dtype == DType::F32 {
        for file in others(file, reference["lse"].len()) {
            for (name, x) in naive::evaluate(&file, dtype, false)? {
                if Measure::of(&name) == Measure::Lse {
                    let other = tolerance(&name, dtype, &x, &reference[&name]);
                    tolerances.entry(name).and_modify(|x| *x = x.max(other));
                }
            }
        }
    }
    Ok(tolerances)
}

/// The same problem with the elements of rows of queries and keys in other orders, so that products
/// are summed in other orders. None of LSH attention, where the last bits may decide a bucket.
fn others(file: &ProblemFile, lse_len: usize) -> Vec<ProblemFile> {
    let head_dim = match file {
        ProblemFile::Full(file) => file.problem.shape.head_dim,
        ProblemFile::Longformer(file) => file.problem.head_dim,
        ProblemFile::Relative(file) => file.problem(Stream::Content, DType::F32).shape.head_dim,
        ProblemFile::Lsh(_) => return vec![],
    };
    let orders = SEEN.div_ceil(lse_len.max(1)).min(ORDERS).min(head_dim);
    let rotated = |n: usize| with_rows_rotated(file, head_dim, n * head_dim / orders);
    (1..orders).map(rotated).collect()
}

/// Numbers of lse to take the largest error of.
const SEEN: usize = 4096;

/// The most orders of summation.
const ORDERS: usize = 16;

fn with_rows_rotated(file: &ProblemFile, head_dim: usize, by: usize) -> ProblemFile {
    let mut file = file.clone();
    let rotate = |x: &mut Vec<f32>| {
        x.chunks_exact_mut(head_dim).for_each(|row| row.rotate_left(by));
    };
    match &mut file {
        ProblemFile::Full(file) => {
            let x = &mut file.inputs;
            [&mut x.q, &mut x.k].into_iter().for_each(rotate);
        }
        ProblemFile::Longformer(file) => {
            let x = &mut file.inputs;
            [&mut x.q, &mut x.k].into_iter().for_each(rotate);
            x.q_global.iter_mut().chain(&mut x.k_global).for_each(rotate);
        }
        ProblemFile::Relative(file) => {
            let x = &mut file.inputs;
            [&mut x.q, &mut x.k, &mut x.r, &mut x.bias_u, &mut x.bias_v]
                .into_iter()
                .for_each(rotate);
            x.q_g.iter_mut().chain(&mut x.bias_s).chain(&mut x.seg_embed).for_each(rotate);
        }
        ProblemFile::Lsh(_) => {}
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn another_order_changes_last_bits_only() {
        let mut changed = 0;
        for (name, bytes) in samples::ALL {
            let file = ProblemFile::parse(name, bytes, true).expect("a sample");
            let of = |file: &ProblemFile| {
                let exact = naive::reference(file, false).expect("valid")["lse"].clone();
                let single =
                    naive::evaluate(file, DType::F32, false).expect("valid")["lse"].clone();
                (exact, single)
            };
            let (exact, single) = of(&file);
            for other in others(&file, exact.len()) {
                let (other_exact, other_single) = of(&other);
                let close =
                    |(a, b): (&f64, &f64)| a == b || (a - b).abs() <= 1e-12 * a.abs().max(1.0);
                assert!(exact.iter().zip(&other_exact).all(close), "{name}");
                changed += usize::from(single != other_single);
            }
        }
        assert!(changed > 0);
    }
}
