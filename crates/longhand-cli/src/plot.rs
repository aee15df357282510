//! Line plots with logarithmic axes, side by side, as SVG text.

/// What to draw.
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) x: String,
    pub(crate) y: String,
    pub(crate) lines: Vec<Line>,
}

/// One line of a plot.
pub(crate) struct Line {
    pub(crate) name: String,
    /// Not measured, only there to compare with.
    pub(crate) dashed: bool,
    /// All positive.
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 5] = ["#0063a6", "#c8481f", "#3a7d2c", "#7a3b8f", "#8a6d00"];

/// One axis: where a value lies, and the values to mark.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    marks: Vec<f64>,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let part = (value.ln() - self.low.ln()) / (self.high.ln() - self.low.ln());
        self.from + part * (self.to - self.from)
    }
}

/// From the power of 10 below the least value to that above the largest.
fn decades(values: &[f64], from: f64, to: f64) -> Axis {
    let log = |x: &f64| x.log10();
    let low = values.iter().map(log).fold(f64::INFINITY, f64::min).floor();
    let high = values.iter().map(log).fold(f64::NEG_INFINITY, f64::max).ceil();
    let (low, high) = if low.is_finite() { (low, high.max(low + 1.0)) } else { (0.0, 1.0) };
    Axis {
        low: 10f64.powf(low),
        high: 10f64.powf(high),
        from,
        to,
        marks: (low as i32..=high as i32).map(|n| 10f64.powi(n)).collect(),
    }
}

/// From the least value to the largest, each marked.
fn exact(values: &[f64], from: f64, to: f64) -> Axis {
    let mut marks = values.to_vec();
    marks.sort_by(f64::total_cmp);
    marks.dedup();
    let low = marks.first().copied().unwrap_or(1.0);
    let high = marks.last().copied().unwrap_or(10.0);
    Axis {
        low: if low < high { low } else { low / 2.0 },
        high: if low < high { high } else { high * 2.0 },
        from,
        to,
        marks,
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The plots as one SVG file. Points that have no logarithm are left out.
pub(crate) fn log_log(plots: &[Plot]) -> String {
    let width = WIDTH * plots.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    for (n, plot) in plots.iter().enumerate() {
        let left = WIDTH * n as f64;
        svg += &format!("<g transform=\"translate({left},0)\">\n{}</g>\n", panel(plot));
    }
    svg + "</svg>\n"
}

fn panel(plot: &Plot) -> String {
    let drawable = |&&(x, y): &&(f64, f64)| x > 0.0 && y > 0.0 && x.is_finite() && y.is_finite();
    let points = || plot.lines.iter().flat_map(|line| line.points.iter().filter(drawable));
    let x = exact(&points().map(|p| p.0).collect::<Vec<_>>(), LEFT, WIDTH - RIGHT);
    let y = decades(&points().map(|p| p.1).collect::<Vec<_>>(), HEIGHT - BOTTOM, TOP);
    let mut svg =
        format!("<text x=\"{LEFT}\" y=\"18\" font-size=\"14\">{}</text>\n", escape(&plot.title));
    let line = |x1: f64, y1: f64, x2: f64, y2: f64| {
        format!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ccc\"/>\n"
        )
    };
    let label = |x: f64, y: f64, anchor: &str, text: &str| {
        let text = escape(text);
        format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n")
    };
    for &mark in &x.marks {
        svg += &line(x.at(mark), TOP, x.at(mark), HEIGHT - BOTTOM);
        svg += &label(x.at(mark), HEIGHT - BOTTOM + 18.0, "middle", &mark.to_string());
    }
    for &mark in &y.marks {
        svg += &line(LEFT, y.at(mark), WIDTH - RIGHT, y.at(mark));
        svg += &label(LEFT - 6.0, y.at(mark) + 4.0, "end", &mark.to_string());
    }
    svg += &label((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 12.0, "middle", &plot.x);
    svg += &label(LEFT - 6.0, TOP - 12.0, "end", &plot.y);
    for (n, Line { name, dashed, points }) in plot.lines.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let dash = if *dashed { " stroke-dasharray=\"6 4\"" } else { "" };
        let at: Vec<(f64, f64)> =
            points.iter().filter(drawable).map(|p| (x.at(p.0), y.at(p.1))).collect();
        let path: Vec<String> = at.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        svg += &format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>\n",
            path.join(" ")
        );
        if !dashed {
            for (x, y) in at {
                svg +=
                    &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>\n");
            }
        }
        let height = TOP + 16.0 + 16.0 * n as f64;
        svg += &format!(
            "<text x=\"{:.1}\" y=\"{height:.1}\" fill=\"{colour}\">{}</text>\n",
            LEFT + 10.0,
            escape(name)
        );
    }
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_of_nothing_or_of_one_point_or_of_nonsense_has_finite_coordinates() {
        for points in [
            vec![],
            vec![(1024.0, 3.0)],
            vec![(0.0, 1.0), (512.0, f64::NAN), (512.0, 0.01), (4096.0, 70.0)],
        ] {
            let plot = |dashed| Plot {
                title: "a < b & c".to_owned(),
                x: "length".to_owned(),
                y: "ms".to_owned(),
                lines: vec![Line { name: "gpu".to_owned(), dashed, points: points.clone() }],
            };
            let svg = log_log(&[plot(false), plot(true)]);
            assert!(svg.contains("a &lt; b &amp; c") && svg.ends_with("</svg>\n"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
