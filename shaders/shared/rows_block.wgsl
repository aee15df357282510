// ---- which block of a head a workgroup computes

// First, last, second, second last … Drivers on processors hand each thread one stretch of the grid,
// and of causal attention the later blocks have more to do: so neighbours make up for each other.
fn block_of(workgroup: u32) -> u32 {
    let i = workgroup % P.blocks;
    return select(i / 2u, P.blocks - 1u - i / 2u, i % 2u == 1u);
}
