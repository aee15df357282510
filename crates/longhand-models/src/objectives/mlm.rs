//! Masked language modelling: BERT (Devlin et al., 2019, §3.1), RoBERTa (Liu et al., 2019, §4.1);
//! ELECTRA's replaced tokens.

use super::*;

/// What becomes of a chosen token: BERT's 80/10/10.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Masking {
    /// The token `[MASK]`.
    pub mask_id: i32,
    /// The share of chosen tokens that it replaces.
    pub mask_share: f64,
    /// The share that a random token replaces; the rest stays.
    pub random_share: f64,
}

/// Draws for every position: one that decides, and a token.
#[derive(Debug, Clone, Copy)]
pub struct Actions<'a> {
    /// In [0, 1), `[length]`.
    pub uniforms: &'a [f64],
    /// `[length]`.
    pub random_tokens: &'a [i32],
}

/// Masks the chosen positions; each of them is scored, changed or not.
///
/// # Panics
///
/// If a position is beyond the sequence or the draws.
pub fn mask(ids: &[i32], chosen: &[usize], masking: &Masking, actions: Actions<'_>) -> Corrupted {
    let mut out = Corrupted::unchanged(ids);
    for &i in chosen {
        out.labels[i] = ids[i];
        let u = actions.uniforms[i];
        if u < masking.mask_share {
            out.input_ids[i] = masking.mask_id;
        } else if u < masking.mask_share + masking.random_share {
            out.input_ids[i] = actions.random_tokens[i];
        }
    }
    out
}

/// Each free position by its own draw, as RoBERTa does anew each time.
pub fn choose_each(free: &[bool], probability: f64, uniforms: &[f64]) -> Vec<usize> {
    (0..free.len()).filter(|&i| free[i] && uniforms[i] < probability).collect()
}

/// As many positions as BERT chooses of `length`, special ones counted.
pub fn budget(length: usize, probability: f64, most: usize) -> usize {
    ((length as f64 * probability).round_ties_even() as usize).max(1).min(most)
}

/// The first `budget` free positions of an order.
pub fn choose_first(free: &[bool], budget: usize, order: &[usize]) -> Vec<usize> {
    order.iter().copied().filter(|&i| free[i]).take(budget).collect()
}

/// All free positions of words, in an order of the words; one that would exceed `budget` is left
/// out. `word_ids`: the word of each position, −1 of none.
pub fn choose_words(free: &[bool], word_ids: &[i32], budget: usize, order: &[usize]) -> Vec<usize> {
    let mut words = vec![Vec::new(); order.len()];
    for (i, &word) in word_ids.iter().enumerate().filter(|&(i, _)| free[i]) {
        if let Some(word) = usize::try_from(word).ok().and_then(|word| words.get_mut(word)) {
            word.push(i);
        }
    }
    let mut chosen = Vec::new();
    for &word in order {
        if chosen.len() + words[word].len() <= budget {
            chosen.append(&mut words[word]);
        }
    }
    chosen
}

/// ELECTRA's replaced tokens (Clark et al., 2020, §2): a generator's samples in place of what is
/// scored, and for each position whether it is not the original token. A sample that is by luck
/// counts as original.
pub fn replace_tokens(
    ids: &[i32],
    labels: &[i32],
    original: &[i32],
    sample: impl Fn(usize) -> usize,
) -> Corrupted {
    let token = |i| if labels[i] == NOT_SCORED { ids[i] } else { sample(i) as i32 };
    let input_ids: Vec<i32> = (0..ids.len()).map(token).collect();
    let labels = input_ids.iter().zip(original).map(|(a, b)| i32::from(a != b)).collect();
    Corrupted { input_ids, labels }
}

pub(crate) fn read(_: &'static Traits, config: &Config, _: &Weights) -> Built {
    let vocab = config.positive("vocab_size")?;
    let masking = Masking {
        mask_id: token(config, "mask_id", vocab)?,
        mask_share: share(config, "mask_share")?,
        random_share: share(config, "random_share")?,
    };
    let most = "must be at most 1 with mask_share";
    let fits = masking.mask_share + masking.random_share <= 1.0;
    ensure(fits, "config: random_share", masking.random_share, most)?;
    let probability = share(config, "probability")?;
    let most = config.positive("max_predictions")?;
    let rule_of = "must be a list of tokens";
    let special: Vec<i32> =
        config.list("special_ids", rule_of, |id| id.as_i64()?.try_into().ok())?;
    rule(move |draws, out| {
        let batch = Batch::read(draws, ["input_ids", "action_uniforms"], vocab)?;
        let shape @ [_, len] = batch.shape;
        let select = draws.uniforms("select_uniforms", &shape)?;
        let tokens = draws.orders("token_order", &shape)?;
        let words = draws.orders("word_order", &shape)?;
        let word_ids = &draws.inputs.ints_shaped("word_ids", &shape)?.data;
        let rule = format!("must be -1 or below {len}");
        let bad = |word| Error::invalid("an element of \"word_ids\"", word, rule);
        reject(word_ids.iter().find(|&&w| w < -1 || w >= len as i32), bad)?;
        let budget = budget(len, probability, most);
        let mut put = |prefix, choose: &dyn Fn(usize, &[bool]) -> Vec<usize>| {
            let corrupt = |(r, (ids, actions)): (usize, (&[i32], _))| {
                let free: Vec<bool> = ids.iter().map(|id| !special.contains(id)).collect();
                mask(ids, &choose(r, &free), &masking, actions)
            };
            out.absorb(prefix, corrupted(&shape, batch.rows().enumerate().map(corrupt)));
        };
        put("dynamic.", &|r, free| choose_each(free, probability, row(&select, r, len)));
        put("static.", &|r, free| choose_first(free, budget, row(&tokens, r, len)));
        put("whole_word.", &|r, free| {
            choose_words(free, row(word_ids, r, len), budget, row(&words, r, len))
        });
        Ok(())
    })
}
