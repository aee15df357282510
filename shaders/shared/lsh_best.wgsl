// ---- argmax of [y ; −y], column by column

const LEAST = -3.4e38;

struct Best {
    plus: f32,
    minus: f32,
    plus_at: u32,
    minus_at: u32,
}

fn nothing_yet() -> Best {
    return Best(LEAST, LEAST, 0u, 0u);
}

fn better(before: Best, y: f32, column: u32) -> Best {
    var best = before;
    best.plus_at = select(best.plus_at, column, y > best.plus);
    best.plus = select(best.plus, y, y > best.plus);
    best.minus_at = select(best.minus_at, column, -y > best.minus);
    best.minus = select(best.minus, -y, -y > best.minus);
    return best;
}

// Every y comes before every −y, so the latter must be larger.
fn bucket_of_best(best: Best, columns: u32) -> u32 {
    return select(best.plus_at, columns + best.minus_at, best.minus > best.plus);
}
