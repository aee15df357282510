//! Plain tables for a terminal.

/// Lines of columns, each as wide as its widest cell; the first `left` columns are set left, the
/// others (numbers) right.
pub(crate) fn render(head: &[&str], rows: &[Vec<String>], left: usize) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (n, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            let gap = if n == 0 { "" } else { "  " };
            text += gap;
            text += &if n < left { format!("{cell}{pad}") } else { format!("{pad}{cell}") };
        }
        format!("{}\n", text.trim_end())
    };
    let mut text = line(head.to_vec());
    for row in rows {
        text += &line(row.iter().map(String::as_str).collect());
    }
    text
}

/// `1.2e-7`, or `0`.
pub(crate) fn small(x: f64) -> String {
    if x == 0.0 { "0".to_owned() } else { format!("{x:.1e}") }
}

/// `1.5 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    let mut x = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if x < 1024.0 {
            return if unit == "B" { format!("{n} B") } else { format!("{x:.1} {unit}") };
        }
        x /= 1024.0;
    }
    format!("{x:.1} TiB")
}

/// Milliseconds.
pub(crate) fn ms(x: f64) -> String {
    if x < 10.0 { format!("{x:.3}") } else { format!("{x:.1}") }
}

/// A cell that may have nothing to say.
pub(crate) fn or_dash<T>(x: Option<T>, text: impl Fn(T) -> String) -> String {
    x.map_or("-".to_owned(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "10".to_owned()], vec!["long".to_owned(), "9".to_owned()]];
        assert_eq!(render(&["k", "n"], &rows, 1), "k      n\na     10\nlong   9\n");
    }

    #[test]
    fn bytes_have_units() {
        assert_eq!(bytes(5), "5 B");
        assert_eq!(bytes(3 << 19), "1.5 MiB");
    }
}
