//! From the masks that other libraries use to a list of global positions.

use crate::Error;

/// The positions where `mask` (`[batch, seqlen]`) is true, ascending, as `global_indices`
/// (`[batch, max_globals]`, filled up with −1) and `max_globals`, the most of any sequence.
///
/// # Errors
///
/// If the mask's length is no multiple of `seqlen`.
pub fn globals_from_mask(mask: &[bool], seqlen: usize) -> Result<(Vec<i32>, usize), Error> {
    if seqlen == 0 || !mask.len().is_multiple_of(seqlen) {
        let rule = format!("must be a multiple of seqlen, {seqlen}");
        return Err(Error::invalid("mask.len", mask.len(), rule));
    }
    let rows: Vec<Vec<i32>> = mask
        .chunks_exact(seqlen)
        .map(|row| (0..).zip(row).filter(|(_, m)| **m).map(|(i, _)| i).collect())
        .collect();
    let most = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut all = Vec::with_capacity(rows.len() * most);
    for row in rows {
        let fill = most - row.len();
        all.extend(row);
        all.extend(std::iter::repeat_n(-1, fill));
    }
    Ok((all, most))
}

/// `key_valid` (`[batch, seqlen]`), `global_indices` and `max_globals` from Hugging Face's
/// `attention_mask` (1 attends, 0 is padding) and `global_attention_mask` (1 is global).
///
/// A position that is padding and global is padding there, and so it is here.
///
/// # Errors
///
/// If the two differ in length, or it is no multiple of `seqlen`.
pub fn masks_from_hugging_face(
    attention_mask: &[i64],
    global_attention_mask: &[i64],
    seqlen: usize,
) -> Result<(Vec<u8>, Vec<i32>, usize), Error> {
    if attention_mask.len() != global_attention_mask.len() {
        let rule = format!("must be as long as attention_mask, {}", attention_mask.len());
        let field = "global_attention_mask.len";
        return Err(Error::invalid(field, global_attention_mask.len(), rule));
    }
    let valid: Vec<u8> = attention_mask.iter().map(|&m| u8::from(m != 0)).collect();
    let global: Vec<bool> =
        global_attention_mask.iter().zip(&valid).map(|(&g, &v)| g != 0 && v != 0).collect();
    let (indices, most) = globals_from_mask(&global, seqlen)?;
    Ok((valid, indices, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hugging_faces_masks_give_lists_and_padding_wins() {
        let (valid, indices, most) =
            masks_from_hugging_face(&[1, 1, 1, 0, 1, 0, 1, 1], &[1, 0, 1, 1, 0, 0, 0, 1], 4)
                .unwrap();
        assert_eq!(valid, [1, 1, 1, 0, 1, 0, 1, 1]);
        assert_eq!((indices, most), (vec![0, 2, 3, -1], 2));
        assert!(masks_from_hugging_face(&[1, 1], &[1], 2).is_err());
        assert!(globals_from_mask(&[true; 5], 2).is_err());
        assert_eq!(globals_from_mask(&[false; 4], 2).unwrap(), (vec![], 0));
    }
}
