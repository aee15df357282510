//! What `longhand bench --json` writes, read back: lines of a plot, and how times grow.

use crate::failure::{Failure, Result};
use crate::plot::{Line, Plot};
use serde_json::Value;
use std::path::Path;

/// One report: of this run, or of an earlier one.
pub(crate) struct Series {
    report: Value,
    rows: Vec<Row>,
}

struct Row {
    seqlen: f64,
    ms: f64,
    workspace_mib: f64,
    dense_mib: f64,
}

impl Series {
    /// `None` if this is no report.
    pub(crate) fn new(report: Value) -> Option<Self> {
        let row = |row: &Value| {
            let number = |key: &str| row[key].as_f64();
            let mib = |key: &str| number(key).map(|bytes| bytes / f64::from(1 << 20));
            Some(Row {
                seqlen: number("seqlen")?,
                ms: number("ms")?,
                workspace_mib: mib("workspace_bytes")?,
                dense_mib: mib("dense_bytes")?,
            })
        };
        let rows = report["rows"].as_array()?.iter().map(row).collect::<Option<_>>()?;
        report["kind"].as_str()?;
        Some(Series { report, rows })
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let place = path.display();
        let text = std::fs::read_to_string(path).map_err(|e| format!("{place}: {e}"));
        let report = serde_json::from_str(&text.map_err(Failure::input)?)
            .map_err(|e| Failure::input(format!("{place}: {e}")))?;
        let why = format!("{place}: is not what longhand bench --json writes");
        Series::new(report).ok_or(Failure::input(why))
    }

    /// The exponent of the length with which times grow, of the line nearest to their logarithms.
    pub(crate) fn exponent(&self) -> Option<f64> {
        let points: Vec<(f64, f64)> =
            self.rows.iter().map(|r| (r.seqlen.ln(), r.ms.ln())).collect();
        let mean =
            |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
        let (x, y) = (mean(|p| p.0), mean(|p| p.1));
        let spread: f64 = points.iter().map(|p| (p.0 - x) * (p.0 - x)).sum();
        let slope = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>() / spread;
        slope.is_finite().then_some(slope)
    }

    /// What the line is of, and in what it differs from `first`.
    fn name(&self, first: &Series) -> String {
        let text = |series: &Series, key: &str| match &series.report[key] {
            Value::String(s) => s.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let mut name = text(self, "kind");
        if self.report["causal"] == true {
            name += ", causal";
        }
        if let Some([left, right]) = self.report["window"].as_array().map(Vec::as_slice) {
            name += &format!(", window {left}+1+{right}");
        }
        if let Some(globals) = self.report["globals"].as_u64() {
            name += &format!(", {globals} globals");
        }
        match &self.report["memory"] {
            Value::Number(n) => name += &format!(", memory {n}"),
            Value::String(_) => name += ", memory as long as the segment",
            _ => {}
        }
        for key in ["adapter", "dtype", "batch", "heads_q", "heads_kv", "head_dim"] {
            if text(self, key) != text(first, key) {
                name += &format!(", {key} {}", text(self, key));
            }
        }
        name
    }
}

/// Time and memory over the length, of the first report and others beside it.
pub(crate) fn plots(all: &[Series]) -> Vec<Plot> {
    let Some(first) = all.first() else { return vec![] };
    let line = |series: &Series, of: fn(&Row) -> f64| Line {
        name: series.name(first),
        dashed: false,
        points: series.rows.iter().map(|row| (row.seqlen, of(row))).collect(),
    };
    let plot = |title: String, y: &str, lines: Vec<Line>| Plot {
        title,
        x: "sequence length".to_owned(),
        y: y.to_owned(),
        lines,
    };
    let r = &first.report;
    let shape = format!(
        "{}, {} heads, head_dim {}",
        r["dtype"].as_str().unwrap_or_default(),
        r["heads_q"],
        r["head_dim"]
    );
    let adapter = r["adapter"].as_str().unwrap_or_default();
    let times = all.iter().map(|series| line(series, |row| row.ms)).collect();
    let mut memory: Vec<Line> = all.iter().map(|s| line(s, |row| row.workspace_mib)).collect();
    // The longest says most of what nobody allocates.
    let longest = |s: &&Series| s.rows.iter().map(|row| row.seqlen as u64).max();
    if let Some(series) = all.iter().max_by_key(longest) {
        let name = "the scores of all heads, if they were kept".to_owned();
        memory.push(Line { name, dashed: true, ..line(series, |row| row.dense_mib) });
    }
    vec![
        plot(format!("Time, {shape}: {adapter}"), "ms", times),
        plot("Device memory beside inputs and outputs".to_owned(), "MiB", memory),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn series(times: &[(u64, f64)]) -> Series {
        let rows: Vec<Value> = times
            .iter()
            .map(|(n, ms)| json!({"seqlen": n, "ms": ms, "workspace_bytes": 8, "dense_bytes": 9}))
            .collect();
        Series::new(json!({"kind": "full", "rows": rows})).expect("a report")
    }

    #[test]
    fn times_that_double_or_quadruple_with_the_length_grow_as_its_first_or_second_power() {
        let close =
            |s: Series, n: f64| assert!((s.exponent().expect("two lengths") - n).abs() < 1e-12);
        close(series(&[(512, 3.0), (1024, 6.0), (4096, 24.0)]), 1.0);
        close(series(&[(512, 3.0), (1024, 12.0)]), 2.0);
    }

    #[test]
    fn one_length_or_none_has_no_exponent() {
        assert_eq!(series(&[(512, 3.0)]).exponent(), None);
        assert_eq!(series(&[(512, 3.0), (512, 4.0)]).exponent(), None);
        assert_eq!(series(&[]).exponent(), None);
    }

    #[test]
    fn what_is_no_report_is_none() {
        for other in [json!(7), json!({"rows": []}), json!({"kind": "full", "rows": [{"ms": 1}]})] {
            assert!(Series::new(other).is_none());
        }
    }
}
