//! Codebooks, and the losses that tell a masked frame by its entries.

use super::*;

/// The inputs that say which frames are masked, and what each is told from.
const MASKED: &str = "mask_time_indices";
const OTHERS: &str = "sampled_negative_indices";

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

impl Codebooks {
    /// Reads the codebooks, of frames and contexts that are so wide.
    pub(super) fn read(config: &Config, weights: &Weights, widths: [usize; 2]) -> Result<Self> {
        let [channels, hidden] = widths;
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

    /// Entries of a group.
    fn of_group(&self) -> usize {
        self.entries.rows() / self.groups
    }

    /// What the codebooks make of the frames, by the highest scores and, where `gumbel` is given, by
    /// scores with that noise as in training; and the losses.
    pub(super) fn run(&self, [features, last]: [&Tensor; 2], inputs: &Inputs) -> Result<Outputs> {
        let mut out = Outputs::default();
        let contexts = self.project_context.run(last);
        let asked = inputs.has(MASKED) && inputs.has(OTHERS);
        let task = when(asked, || Task::read(&contexts, inputs))?;
        let shape = [features.rows() * self.groups, self.of_group()];
        let scores = self.scores.run(features).reshape(&shape);
        let (chosen, quantised) = self.choose(&scores, features.shape());
        let chosen = Ints::of_numbers(&chosen);
        if let Some(task) = &task {
            let mut taken = Tensor::zeros(&shape);
            let rows = taken.data_mut().chunks_exact_mut(shape[1]).zip(&chosen.data);
            rows.for_each(|(row, &entry)| row[entry as usize] = 1.0);
            out.absorb("eval.", self.losses(task, &chosen, [&quantised, &taken]));
        }
        if inputs.has("gumbel") {
            let noise = inputs.floats_shaped("gumbel", &shape)?;
            let noisy = ops::add(scores.clone(), noise);
            let (drawn, quantised) = self.choose(&noisy, features.shape());
            if let Some(task) = &task {
                // Without the noise, so that entries of little luck count too.
                let soft = ops::softmax(scores);
                let drawn = Ints::of_numbers(&drawn);
                out.absorb("train.", self.losses(task, &drawn, [&quantised, &soft]));
            }
            out.put("train.projected_quantized_states", quantised);
        }
        out.put_ints("codevector_index", chosen);
        out.put("projected_quantized_states", quantised);
        out.put("projected_states", contexts);
        Ok(out)
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
    fn losses(&self, task: &Task<'_>, chosen: &Ints, [quantised, used]: [&Tensor; 2]) -> Outputs {
        let mut out = Outputs::default();
        let Ints { shape, data } = task.others;
        let of = |frame: usize| &chosen.data[frame * self.groups..][..self.groups];
        // Whether another frame has the same entries as the frame that it is one of the others to.
        let same = |(n, &other): (usize, &i32)| i32::from(of(n / shape[2]) == of(other as usize));
        let same = Ints::new(shape, data.iter().enumerate().map(same).collect());
        let contrast = self.contrast(task, quantised, &same);
        let perplexity = self.perplexity(used, &task.frames);
        let entries = self.entries.rows() as f64;
        let diversity = (entries - perplexity) / entries * task.frames.len() as f64;
        out.put_scalar("codevector_perplexity", perplexity);
        out.put_scalar("contrastive_loss", contrast);
        out.put_scalar("diversity_loss", diversity);
        out.put_scalar("loss", contrast + self.diversity * diversity);
        out.put_ints("negative_equals_positive", same);
        out
    }
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
    /// The masked frames and the others to tell them from.
    fn read(contexts: &'a Tensor, inputs: &'a Inputs) -> Result<Self> {
        let masked = inputs.ints_shaped(MASKED, &contexts.shape()[..2])?;
        let frames: Vec<usize> = (0..masked.data.len()).filter(|&i| masked.data[i] != 0).collect();
        let unmarked = || Error::input(format!("{MASKED}: must mark a frame, for a loss"));
        require(!frames.is_empty(), unmarked)?;
        let count = inputs.ints(OTHERS)?.shape.last().copied().unwrap_or(0);
        let others = inputs.ints_shaped(OTHERS, &[&masked.shape[..], &[count]].concat())?;
        others.indices(OTHERS, masked.data.len())?;
        Ok(Task { contexts, frames, others })
    }
}
