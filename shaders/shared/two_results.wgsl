// Of two results over different keys: x is their lse, y and z what they are multiplied by.
fn merge(before: f32, own: f32) -> vec3<f32> {
    let top = max(before, own);
    let weight = exp2((vec2<f32>(before, own) - vec2<f32>(top)) * LOG2E);
    let sum = weight.x + weight.y;
    return vec3<f32>(top + ln(sum), weight / sum);
}

// Nothing of it where the weight is 0: 0 · x would be NaN where x is inf or NaN.
fn weighted(weight: f32, x: vec4<f32>) -> vec4<f32> {
    return select(weight * x, vec4<f32>(), vec4<bool>(weight == 0.0));
}
