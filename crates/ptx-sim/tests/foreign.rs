//! PTX that another compiler made: matmuls over types and layouts, with exact inputs.

mod common;

use std::path::Path;

use common::Words;
use ptx_sim::{Device, Launch, Module, Options, Profile};

struct Matmul {
    name: String,
    text: String,
    module: Module,
    ty: String,
    n: usize,
    k: usize,
    transposed: [bool; 2],
    smem: u32,
}

fn matmuls() -> Vec<Matmul> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/triton");
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "ptx"))
        .collect();
    paths.sort();
    assert_eq!(paths.len(), 8);
    paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let parts: Vec<&str> = name.split('_').collect();
            let number = |i: usize| parts[i].parse::<usize>().unwrap();
            let smem = text.lines().next().unwrap().split("smem=").nth(1).unwrap();
            Matmul {
                module: Module::parse(&text, &name).unwrap_or_else(|d| panic!("{d}")),
                ty: parts[1].to_owned(),
                n: number(2),
                k: number(3) * if number(2) == 64 { 2 } else { 4 },
                transposed: [0, 1].map(|i| parts[4].as_bytes()[i] == b't'),
                smem: smem.trim_end_matches('.').parse().unwrap(),
                text,
                name,
            }
        })
        .collect()
}

impl Matmul {
    fn encode(&self, v: f32) -> Vec<u8> {
        match self.ty.as_str() {
            "i8" => vec![v as i8 as u8],
            "bf16" => ((v.to_bits() >> 16) as u16).to_le_bytes().to_vec(),
            "fp32" => v.to_le_bytes().to_vec(),
            _ if v == 0.0 => vec![0, 0],
            // Exact in binary16.
            _ => {
                let bits = v.to_bits();
                let half =
                    bits >> 16 & 0x8000 | ((bits >> 23 & 0xff) - 112) << 10 | bits >> 13 & 0x3ff;
                (half as u16).to_le_bytes().to_vec()
            }
        }
    }

    /// The result, whether it is the exact product, and the codes reported.
    fn run(&self, module: &Module, options: Options) -> (bool, Vec<&'static str>, String) {
        let (m, n, k) = (64, self.n, self.k);
        let mut words = Words(5);
        let mut value = || match self.ty.as_str() {
            "i8" => words.below(15) as f32 - 7.0,
            _ => [0.0, 0.5, 1.0, -1.0, 2.0, -0.5, 1.5, -2.0][words.below(8) as usize],
        };
        let a: Vec<f32> = (0..m * k).map(|_| value()).collect();
        let b: Vec<f32> = (0..k * n).map(|_| value()).collect();
        let store = |x: &[f32], rows: usize, columns: usize, transposed: bool| -> Vec<u8> {
            (0..rows * columns)
                .flat_map(|i| {
                    let at = if transposed { i % rows * columns + i / rows } else { i };
                    self.encode(x[at])
                })
                .collect()
        };
        let mut device = Device::new(Profile::a100(), options);
        let mut params = Vec::new();
        for bytes in [store(&a, m, k, self.transposed[0]), store(&b, k, n, self.transposed[1])] {
            let address = device.alloc(bytes.len() as u64).unwrap();
            device.write(address, &bytes).unwrap();
            params.extend(address.to_le_bytes());
        }
        let c = device.alloc((4 * m * n) as u64).unwrap();
        let scratch = device.alloc(64).unwrap();
        params.extend(c.to_le_bytes());
        params.extend((k as u32).to_le_bytes());
        params.extend([0; 4]);
        params.extend(scratch.to_le_bytes());
        params.extend(scratch.to_le_bytes());
        let launch = Launch::new([1, 1, 1], [128, 1, 1], self.smem);
        let report = match device.launch(module, "mm", &launch, &params) {
            Ok(report) => report,
            Err(report) => *report,
        };
        let mut found = vec![0; 4 * m * n];
        device.read(c, &mut found).unwrap();
        let right = found.chunks_exact(4).enumerate().all(|(i, bytes)| {
            let sum: f32 = (0..k).map(|x| a[i / n * k + x] * b[x * n + i % n]).sum();
            let bits = if self.ty == "i8" { sum as i32 as u32 } else { sum.to_bits() };
            u32::from_le_bytes(bytes.try_into().unwrap()) == bits
        });
        (right, report.diags.iter().map(|d| d.code).collect(), report.to_string())
    }
}

#[test]
fn matmuls_are_clean_and_exact() {
    for matmul in matmuls() {
        for options in Options::matrix().into_iter().chain(Options::numerics()) {
            let (right, codes, report) = matmul.run(&matmul.module, options);
            assert!(codes.is_empty(), "{} {options:?}\n{report}", matmul.name);
            assert!(right, "{} {options:?}: wrong result", matmul.name);
        }
    }
}

/// Every barrier and every wait that is taken out of the pipelined ones is noticed, or the copies it waits for are none.
#[test]
fn synchronisation_that_is_missing_is_noticed() {
    let (mut barriers, mut waits) = (0, 0);
    for matmul in matmuls() {
        for (needle, what) in
            [("bar.sync \t0;", &mut barriers), ("cp.async.wait_group \t", &mut waits)]
        {
            for (at, _) in matmul.text.match_indices(needle) {
                let mut text = matmul.text.clone();
                let end = at + text[at..].find(';').unwrap();
                text.replace_range(at..end, "");
                let module = Module::parse(&text, &matmul.name).unwrap();
                let codes = matmul.run(&module, Options::default()).1;
                let races = codes.iter().all(|c| c.starts_with("RACE") || c.starts_with("ASYNC"));
                assert!(races, "{} at {at}: {codes:?}", matmul.name);
                *what += usize::from(!codes.is_empty());
            }
        }
    }
    println!("{barriers} barriers, {waits} waits");
    assert!(barriers >= 16 && waits >= 6);
}
