//! Control flow: where the sides of a branch meet again, and how many registers are alive.

use crate::module::Program;
use crate::op::{Inst, Op};

/// The end of the program as a node.
fn successors(code: &[Inst], pc: usize) -> Vec<usize> {
    let inst = &code[pc];
    let mut next = match &inst.op {
        Op::Bra { target, .. } => vec![*target as usize],
        Op::Brx { targets, .. } => targets.iter().map(|t| *t as usize).collect(),
        Op::Exit | Op::Trap => vec![code.len()],
        _ => Vec::new(),
    };
    if !inst.ends_flow() {
        next.push((pc + 1).min(code.len()));
    }
    next.sort_unstable();
    next.dedup();
    next
}

/// Sets every branch's `join` to its immediate post-dominator. Lanes that leave the kernel on the way
/// do not keep the others from meeting: with several exits, the one that most blocks lead to is the end for
/// all of them, and the next one for those that are left.
pub(crate) fn set_joins(code: &mut [Inst]) {
    let n = code.len();
    // Basic blocks: leaders are targets and what follows a branch or exit.
    let mut leader = vec![false; n + 1];
    leader[0] = true;
    leader[n] = true;
    for pc in 0..n {
        if matches!(code[pc].op, Op::Bra { .. } | Op::Brx { .. } | Op::Exit | Op::Trap) {
            leader[pc + 1] = true;
            for s in successors(code, pc) {
                leader[s] = true;
            }
        }
    }
    let starts: Vec<usize> = (0..=n).filter(|&pc| leader[pc]).collect();
    let blocks = starts.len() - 1;
    let block_of = |pc: usize| starts.partition_point(|&s| s <= pc) - 1;
    let last = |b: usize| starts[b + 1] - 1;
    let edges: Vec<Vec<usize>> = (0..blocks)
        .map(|b| successors(code, last(b)).into_iter().filter(|&s| s < n).map(block_of).collect())
        .collect();
    let mut before = vec![Vec::new(); blocks];
    for (b, next) in edges.iter().enumerate() {
        for &s in next {
            before[s].push(b);
        }
    }
    let mut done = vec![false; blocks];
    let mut ends: Vec<(bool, usize, usize)> = (0..blocks)
        .filter(|&b| code[last(b)].guard.is_none())
        .filter(|&b| matches!(code[last(b)].op, Op::Exit | Op::Trap))
        .map(|b| {
            let trap = matches!(code[last(b)].op, Op::Trap);
            (trap, blocks - leading_to(b, &before, &done).len(), b)
        })
        .collect();
    ends.sort_unstable();
    for (_, _, end) in ends {
        if done[end] {
            continue;
        }
        let order = leading_to(end, &before, &done);
        for (b, dom) in dominators(&order, &edges, blocks) {
            done[b] = true;
            if matches!(code[last(b)].op, Op::Bra { .. } | Op::Brx { .. }) {
                code[last(b)].join = starts[dom] as u32;
            }
        }
    }
    // A loop without exit never reaches an end: its sides never meet.
    for b in (0..blocks).filter(|&b| !done[b]) {
        code[last(b)].join = n as u32;
    }
}

/// Blocks that lead to `end` and are not done, in post-order of the reversed graph.
fn leading_to(end: usize, before: &[Vec<usize>], done: &[bool]) -> Vec<usize> {
    let mut order = Vec::new();
    let mut seen = done.to_vec();
    let mut stack = vec![(end, 0)];
    seen[end] = true;
    while let Some((b, i)) = stack.pop() {
        if let Some(&p) = before[b].get(i) {
            stack.push((b, i + 1));
            if !seen[p] {
                seen[p] = true;
                stack.push((p, 0));
            }
        } else {
            order.push(b);
        }
    }
    order
}

/// Immediate post-dominators of the blocks in `order`, whose last is the end: Cooper, Harvey and Kennedy's
/// algorithm. What leads elsewhere does not count.
fn dominators(order: &[usize], edges: &[Vec<usize>], blocks: usize) -> Vec<(usize, usize)> {
    let Some(&end) = order.last() else { return Vec::new() };
    let mut rank = vec![usize::MAX; blocks];
    for (i, &b) in order.iter().enumerate() {
        rank[b] = i;
    }
    let mut dom = vec![usize::MAX; blocks];
    dom[end] = end;
    let mut changed = true;
    while changed {
        changed = false;
        for &b in order.iter().rev().filter(|&&b| b != end) {
            let mut new = usize::MAX;
            for &s in edges[b].iter().filter(|&&s| dom[s] != usize::MAX) {
                if new == usize::MAX {
                    new = s;
                    continue;
                }
                let mut other = s;
                while new != other {
                    while rank[new] < rank[other] {
                        new = dom[new];
                    }
                    while rank[other] < rank[new] {
                        other = dom[other];
                    }
                }
            }
            if new != usize::MAX && dom[b] != new {
                dom[b] = new;
                changed = true;
            }
        }
    }
    order.iter().map(|&b| (b, dom[b])).collect()
}

/// An upper estimate of the 32-bit registers a thread needs: the most that are alive at once.
pub(crate) fn registers_alive(program: &Program) -> u32 {
    let code = &program.code;
    let words = program.names.len().div_ceil(64);
    let mut live = vec![vec![0u64; words]; code.len() + 1];
    let mut changed = true;
    while changed {
        changed = false;
        for pc in (0..code.len()).rev() {
            let mut set = vec![0u64; words];
            for s in successors(code, pc) {
                for (a, b) in set.iter_mut().zip(&live[s]) {
                    *a |= b;
                }
            }
            if code[pc].guard.is_none() {
                for &w in &code[pc].writes {
                    set[w as usize / 64] &= !(1 << (w % 64));
                }
            }
            for &r in &code[pc].reads {
                set[r as usize / 64] |= 1 << (r % 64);
            }
            if set != live[pc] {
                live[pc] = set;
                changed = true;
            }
        }
    }
    let size = |id: usize| match id as u32 {
        id if id < program.n32 => 1,
        id if id < program.n32 + program.n64 => 2,
        _ => 0,
    };
    let weight = |set: &Vec<u64>| {
        (0..program.names.len()).filter(|id| set[id / 64] >> (id % 64) & 1 == 1).map(size).sum()
    };
    live.iter().map(weight).max().unwrap_or(0) + 8
}
