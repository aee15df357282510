//# Tile kernels: a row over the invocations that share it.
//% if subgroups
fn row_max(x: f32) -> f32 {
    var y = x;
//%   for step in subgroup_steps
    y = max(y, subgroupShuffleXor(y, ${ step }u));
//%   endfor
    return y;
}
fn row_sum(x: f32) -> f32 {
    var y = x;
//%   for step in subgroup_steps
    y += subgroupShuffleXor(y, ${ step }u);
//%   endfor
    return y;
}
//% endif
