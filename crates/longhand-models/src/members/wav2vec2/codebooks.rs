//! Codebooks, and the losses that tell a masked frame by its entries.

use super::*;

/// Codebooks, and what compares their entries with the contexts.
pub(super) struct Codebooks {
    groups: usize,
    scores: Linear,
    /// `[groups · entries, width of one]`.
    entries: Tensor,
    project_entries: Linear,
    project_context: Linear,
    temperature: f64,
    diversity: f64,
}

/// Reads the codebooks.
pub(super) fn read_codebooks(
    config: &Config,
    weights: &Weights,
    channels: usize,
    hidden: usize,
) -> Result<Codebooks> {
    let groups = config.size_or("num_codevector_groups", 2)?.max(1);
    let of_group = config.size_or("num_codevectors_per_group", 320)?.max(1);
    let width = config.size_or("codevector_dim", 256)?;
    let shared = config.size_or("proj_codevector_dim", 256)?;
    let rule = format!("must be a positive multiple of num_codevector_groups = {groups}");
    ensure(width > 0 && width.is_multiple_of(groups), "config: codevector_dim", width, rule)?;
    let all = groups * of_group;
    let entries = weights.tensor("quantizer.codevectors", &[1, all, width / groups])?;
    Ok(Codebooks {
        groups,
        scores: Linear::read(weights, "quantizer.weight_proj", channels, all)?,
        entries: entries.reshape(&[all, width / groups]),
        project_entries: Linear::read(weights, "project_q", width, shared)?,
        project_context: Linear::read(weights, "project_hid", hidden, shared)?,
        temperature: config.positive_or("contrastive_logits_temperature", 0.1)?,
        diversity: config.number_or("diversity_loss_weight", 0.1)?,
    })
}

impl Codebooks {
    /// Entries of a group.
    fn of_group(&self) -> usize {
        self.entries.rows() / self.groups
    }

    /// What the codebooks make of the frames, by the highest scores and, where `gumbel` is given, by
    /// scores with that noise as in training; and the losses.
    pub(super) fn run(
        &self,
        features: &Tensor,
        last: &Tensor,
        inputs: &Inputs,
        out: &mut Outputs,
    ) -> Result<()> {
        let contexts = self.project_context.run(last);
        let task = Task::read(&contexts, inputs)?;
        let shape = [features.rows() * self.groups, self.of_group()];
        let scores = self.scores.run(features).reshape(&shape);
        let (chosen, quantised) = self.choose(&scores, features.shape());
        let chosen = Ints::of_numbers(&chosen);
        if let Some(task) = &task {
            let mut taken = Tensor::zeros(&shape);
            let rows = taken.data_mut().chunks_exact_mut(shape[1]).zip(&chosen.data);
            rows.for_each(|(row, &entry)| row[entry as usize] = 1.0);
            self.losses("eval.", task, &quantised, &chosen, &taken, out);
        }
        if inputs.has("gumbel") {
            let noise = inputs.floats_shaped("gumbel", &shape)?;
            let noisy = ops::add(scores.clone(), noise);
            let (drawn, quantised) = self.choose(&noisy, features.shape());
            if let Some(task) = &task {
                // Without the noise, so that entries of little luck count too.
                let soft = ops::softmax(scores);
                self.losses("train.", task, &quantised, &Ints::of_numbers(&drawn), &soft, out);
            }
            out.put("train.projected_quantized_states", quantised);
        }
        out.put_ints("codevector_index", chosen);
        out.put("projected_quantized_states", quantised);
        out.put("projected_states", contexts);
        Ok(())
    }

    /// For each frame and group, the entry with the highest score, `[batch, frames, groups]`; and the
    /// frames' entries side by side, in the space that contexts are compared in.
    fn choose(&self, scores: &Tensor, frames: &[usize]) -> (Tensor, Tensor) {
        let chosen = ops::argmax_rows(scores).reshape(&[frames[0], frames[1], self.groups]);
        let first = (0..self.groups).map(|group| (group * self.of_group()) as f32).collect();
        let rows = ops::add_row(chosen.clone(), &Tensor::new(&[self.groups], first));
        let vectors = ops::gather_at(&self.entries, &rows);
        let side_by_side = [frames[0], frames[1], self.groups * self.entries.width()];
        (chosen, self.project_entries.run(&vectors.reshape(&side_by_side)))
    }

    /// How many entries are in use, over all groups: `Σ exp(−Σ p ln p)` of the mean over `frames` of
    /// the probabilities `[frames · groups, entries]`.
    fn perplexity(&self, probabilities: &Tensor, frames: &[usize]) -> f64 {
        let entries = self.of_group();
        let of_group = |group: usize| {
            let term = |entry: usize| {
                let row = |&frame: &usize| probabilities.row(frame * self.groups + group);
                let sum: f64 = frames.iter().map(|frame| f64::from(row(frame)[entry])).sum();
                let p = sum / frames.len() as f64;
                -p * (p + 1e-7).ln()
            };
            (0..entries).map(term).sum::<f64>().exp()
        };
        (0..self.groups).map(of_group).sum()
    }

    /// The summed cross entropy of telling a frame's own entries from the others'. Others that are the
    /// same entries do not count.
    fn contrast(&self, task: &Task<'_>, quantised: &Tensor, same: &Ints) -> f64 {
        let Task { contexts, frames, others } = task;
        let count = others.shape[2];
        let nll = |&frame: &usize| {
            let to = |other: usize| {
                let similarity = ops::cosine(contexts.row(frame), quantised.row(other));
                (similarity / self.temperature) as f32
            };
            let others = (frame * count..(frame + 1) * count).map(|n| match same.data[n] {
                0 => to(others.data[n] as usize),
                _ => f32::NEG_INFINITY,
            });
            ops::nll(&std::iter::once(to(frame)).chain(others).collect::<Vec<_>>(), 0)
        };
        frames.iter().map(nll).sum()
    }

    /// The losses of a choice of entries, and how many of those are in `used`.
    fn losses(
        &self,
        prefix: &str,
        task: &Task<'_>,
        quantised: &Tensor,
        chosen: &Ints,
        used: &Tensor,
        out: &mut Outputs,
    ) {
        let same = same_entries(chosen, task.others);
        let contrast = self.contrast(task, quantised, &same);
        let perplexity = self.perplexity(used, &task.frames);
        let entries = self.entries.rows() as f64;
        let diversity = (entries - perplexity) / entries * task.frames.len() as f64;
        out.put_scalar(format!("{prefix}codevector_perplexity"), perplexity);
        out.put_scalar(format!("{prefix}contrastive_loss"), contrast);
        out.put_scalar(format!("{prefix}diversity_loss"), diversity);
        out.put_scalar(format!("{prefix}loss"), contrast + self.diversity * diversity);
        out.put_ints(format!("{prefix}negative_equals_positive"), same);
    }
}

/// Which of the others are the same entries as a frame's own.
fn same_entries(chosen: &Ints, others: &Ints) -> Ints {
    let (groups, count) = (chosen.shape[2], others.shape[2]);
    let of = |frame: usize| &chosen.data[frame * groups..][..groups];
    let same = |(n, &other): (usize, &i32)| i32::from(of(n / count) == of(other as usize));
    Ints::new(&others.shape, others.data.iter().enumerate().map(same).collect())
}

/// What a loss is computed over.
struct Task<'a> {
    contexts: &'a Tensor,
    /// The masked frames.
    frames: Vec<usize>,
    /// `[batch, frames, count]`: frames of all sequences, counted through.
    others: &'a Ints,
}

impl<'a> Task<'a> {
    /// The masked frames and the others to tell them from, if both are given.
    fn read(contexts: &'a Tensor, inputs: &'a Inputs) -> Result<Option<Self>> {
        let shape = &contexts.shape()[..2];
        let (mask, others) = ("mask_time_indices", "sampled_negative_indices");
        if !inputs.has(mask) || !inputs.has(others) {
            return Ok(None);
        }
        let marked = inputs.ints_shaped(mask, shape)?;
        let frames: Vec<usize> = (0..marked.data.len()).filter(|&i| marked.data[i] != 0).collect();
        let unmarked = || Error::input("mask_time_indices: must mark a frame, for a loss");
        require(!frames.is_empty(), unmarked)?;
        let given = inputs.ints(others)?;
        let rule = format!("must be [{}, {}, others]", shape[0], shape[1]);
        let fits = given.shape.len() == 3 && given.shape[..2] == *shape;
        require(fits, || Error::shape(format_args!("input {others:?}"), &given.shape, rule))?;
        given.indices(others, marked.data.len())?;
        Ok(Some(Task { contexts, frames, others: given }))
    }
}
