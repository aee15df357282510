//! Convolution over time.

use super::*;

/// `[batch, length, in]` under `weight` `[out, in / groups, width]` to `[batch, ⌊(length + 2 · padding −
/// width) / stride⌋ + 1, out]`; zeros beyond the ends. The windows of each group of channels are
/// gathered, then multiplied. Gradients: of that product, scattered back.
///
/// # Panics
///
/// If the sizes do not fit.
pub fn conv1d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    [stride, padding, groups]: [usize; 3],
) -> Tensor {
    let x = &padded(x, padding);
    let (&[batch, length, from], &[to, part, width]) = (x.shape(), weight.shape()) else {
        panic!("three dimensions each: {:?}, {:?}", x.shape(), weight.shape());
    };
    assert_eq!(from, part * groups, "channels of the groups");
    assert!(to.is_multiple_of(groups), "outputs of the groups");
    let frames = length.checked_sub(width).map_or(0, |n| n / stride + 1);
    let own = to / groups;
    let of_group = |group: usize| {
        let steps = [length * from, stride * from, from, 1];
        let windows = Moved::dense([batch, frames, width, part], group * part, steps);
        let windows = windows.tensor(x, &[batch, frames, width * part]);
        // Weights lie channel by channel, windows step by step.
        let start = group * own * part * width;
        let turned = Moved::dense([1, own, width, part], start, [0, part * width, 1, width]);
        let turned = together(place(&[x]), &[(weight, turned)], &[own, width * part]);
        linear(&windows, &turned, Order::OutIn, None)
    };
    let parts: Vec<Tensor> = (0..groups).map(of_group).collect();
    let y = concat(&parts, 2);
    match bias {
        Some(bias) => add_row(y, bias),
        None => y,
    }
}

/// Of `[batch, length, width]`, the largest over the length: `[batch, width]`. Gradient: to the
/// position that was largest.
///
/// # Panics
///
/// If `x` has not three dimensions.
pub fn max_over_length(x: &Tensor) -> Tensor {
    let &[batch, length, width] = x.shape() else { panic!("three dimensions: {:?}", x.shape()) };
    if let Some(most) = x.gpu().and_then(|_| of_rows(&turned(x), OfRow::Largest)) {
        return most;
    }
    let mut most = vec![f32::NEG_INFINITY; batch * width];
    for i in 0..batch * length {
        let row = &mut most[i / length * width..][..width];
        row.iter_mut().zip(x.row(i)).for_each(|(m, &x)| *m = m.max(x));
    }
    Tensor::new(&[batch, width], most)
}
