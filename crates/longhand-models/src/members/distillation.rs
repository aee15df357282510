//! A student and its teacher: DistilBERT and TinyBERT.

use super::*;
use crate::attention;
use crate::block::Block;

/// Student and teacher, a BERT.
fn read(student: &str, config: &Config, weights: &Weights) -> Result<[Network; 2]> {
    let parts = [["student", student, "student"], ["teacher", "bert", "teacher"]];
    each(parts, |part| Network::part(config, weights, part))
}

pub(crate) fn distilbert(_: &'static Traits, config: &Config, weights: &Weights) -> Built {
    let [student, teacher] = read("distilbert", config, weights)?;
    let temperature = config.positive_or("temperature", 1.0)?;
    let alphas = [("alpha_ce", 5.0), ("alpha_mlm", 2.0), ("alpha_cos", 1.0)];
    let [a_ce, a_mlm, a_cos] = each(alphas, |(key, default)| config.number_or(key, default))?;
    member(move |inputs, device, out| {
        let own = student.states(inputs, device)?;
        let taught = student.heads(&own, inputs)?;
        let mlm = taught.number("loss")?;
        let logits = taught.floats(student.sizes.traits.head.output)?.clone();
        let (own, theirs) = (last(own), last(teacher.states(inputs, device)?));
        let head = teacher.head.as_ref().ok_or_else(|| Error::input("the teacher has no head"))?;
        let wanted = head.run(&theirs);
        let alike = logits.shape() == wanted.shape() && own.shape() == theirs.shape();
        require(alike, || Error::input("student and teacher differ in vocabulary or width"))?;

        // Means over positions that are there.
        let valid = inputs.key_valid()?;
        let there = |&i: &usize| valid.as_ref().is_none_or(|v| v[i] != 0);
        let rows: Vec<usize> = (0..own.rows()).filter(there).collect();
        let n = rows.len() as f64;
        let soft =
            |logits| ops::soft_cross_entropy(logits, &wanted, temperature, rows.iter().copied());
        let ce = temperature * temperature * (soft(&logits) - soft(&wanted)) / n;
        let apart = |&i: &usize| 1.0 - ops::cosine(own.row(i), theirs.row(i));
        let cos = rows.iter().map(apart).sum::<f64>() / n;

        out.absorb("student.", taught);
        out.put("student.logits", logits);
        out.put("teacher.last_hidden_state", theirs);
        out.put("teacher.logits", wanted);
        out.put_scalar("loss_ce", ce);
        out.put_scalar("loss_mlm", mlm);
        out.put_scalar("loss_cos", cos);
        out.put_scalar("loss", a_ce * ce + a_mlm * mlm + a_cos * cos);
        Ok(())
    })
}

pub(crate) fn tinybert(_: &'static Traits, config: &Config, weights: &Weights) -> Built {
    let [student, teacher] = read("bert", config, weights)?;
    let temperature = config.positive_or("temperature", 1.0)?;
    let (own, theirs) = (&student.sizes, &teacher.sizes);
    let fits = own.heads.count == theirs.heads.count
        && (1..=theirs.layers).contains(&own.layers)
        && theirs.layers.is_multiple_of(own.layers);
    let message = "student and teacher must have the same number of heads, and the teacher a \
                   multiple of the student's layers";
    require(fits, || Error::input(message))?;
    // From the student's width to the teacher's, at every depth.
    let fit = Linear::read(weights, "fit_dense", own.hidden, theirs.hidden)?;
    member(move |inputs, device, out| {
        let (states_s, scores_s, logits_s) = classified(&student, inputs, device)?;
        let (states_t, scores_t, logits_t) = classified(&teacher, inputs, device)?;
        let alike = logits_s.shape() == logits_t.shape();
        require(alike, || Error::input("student and teacher differ in their classes"))?;
        let every = (states_t.len() - 1) / (states_s.len() - 1);
        // Hidden scores count as 0 on both sides.
        let shown = |x: &Tensor| ops::map(x.clone(), |x| if x <= -100.0 { 0.0 } else { x });
        let of_layer = |(s, t): (&Tensor, &Tensor)| ops::mse(&shown(s), &shown(t));
        let theirs = scores_t.iter().skip(every - 1).step_by(every);
        let attention: f64 = scores_s.iter().zip(theirs).map(of_layer).sum();
        let of_depth = |i: usize| ops::mse(&fit.run(&states_s[i]), &states_t[i * every]);
        let embedding = of_depth(0);
        let hidden: f64 = (1..states_s.len()).map(of_depth).sum();
        let rows = logits_s.rows();
        let prediction =
            ops::soft_cross_entropy(&logits_s, &logits_t, temperature, 0..rows) / rows as f64;

        out.put_each("student.hidden_states", &states_s);
        out.put_each("teacher.hidden_states", &states_t);
        out.put_each("student.scores", &scores_s);
        out.put("student.logits", logits_s);
        out.put("teacher.logits", logits_t);
        out.put_scalar("loss_attention", attention);
        out.put_scalar("loss_embedding", embedding);
        out.put_scalar("loss_hidden", hidden);
        out.put_scalar("loss_intermediate", attention + embedding + hidden);
        out.put_scalar("loss_prediction", prediction);
        out.put_scalar("loss", attention + embedding + hidden + prediction);
        Ok(())
    })
}

/// States, scores of every block, and the classes' logits.
type Classified = (Vec<Tensor>, Vec<Tensor>, Tensor);

fn classified(network: &Network, inputs: &Inputs, device: &Device) -> Result<Classified> {
    let valid = inputs.key_valid()?;
    let states = network.states(inputs, device)?;
    let of_block = |(x, block): (&Tensor, &Block)| {
        let attention = &block.attention.inner;
        let [q, k, _] = attention.project([x, x, x]);
        attention::scores(&attention.heads, [&q, &k], valid.as_deref())
    };
    let scores = states.iter().zip(&network.stack.blocks).map(of_block).collect();
    let absent = || Error::input("the network has no classifier");
    let classifier = network.classifier.as_ref().ok_or_else(absent)?;
    let pooled = network.pooled(&states[states.len() - 1]).ok_or_else(absent)?;
    Ok((states, scores, classifier.run(&pooled)))
}
