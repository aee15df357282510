use crate::Gpu;
use crate::forward::{Computed, Operands, compute};
use cubecl::ir::{ElemType, UIntKind};
use cubecl::std::tensor::TensorHandle;
use cubek_attention::forward::definition::AttentionGlobalTypes;
use peer::Contender;

/// Longformer as cubek can compute it: every row over all keys with a mask in memory, one for all
/// heads, then the rows of the global positions with their own projections.
pub struct Longformer {
    gpu: Gpu,
    local: Operands,
    global: Option<Operands>,
    /// Where the global rows begin in the result.
    places: Vec<usize>,
    out: Vec<Computed>,
}

impl Longformer {
    pub fn open(gpu: Gpu, inputs: Vec<Vec<f32>>) -> Result<Self, String> {
        let case = gpu.case.clone();
        let [q, k, v] = [0, 1, 2].map(|n| gpu.upload(&inputs[n]));
        let (places, rows) = case.global_rows(&inputs[3]);
        let global = (!places.is_empty()).then(|| Operands {
            q: gpu.upload_rows(&rows, case.globals.len()),
            k: gpu.upload(&inputs[4]),
            v: gpu.upload(&inputs[5]),
            mask: None,
        });
        let elem = AttentionGlobalTypes::mask_dtype(&gpu.client);
        let bytes: Vec<u8> = match elem {
            ElemType::UInt(UIntKind::U8) => case.hidden().map(u8::from).collect(),
            _ => case.hidden().flat_map(|hidden| u32::from(hidden).to_le_bytes()).collect(),
        };
        let most = gpu.client.properties().memory.max_page_size;
        if bytes.len() as u64 > most {
            return Err(format!("the mask takes {} bytes, a binding {most}", bytes.len()));
        }
        let mask = gpu.client.create_from_slice(&bytes);
        let shape = [case.batch, case.heads, case.seqlen, case.seqlen];
        let mask = TensorHandle::new(mask, shape, [0, 0, case.seqlen, 1], elem);
        gpu.wait()?;
        let local = Operands { q, k, v, mask: Some(mask) };
        Ok(Longformer { gpu, local, global, places, out: vec![] })
    }
}

impl Contender for Longformer {
    fn run(&mut self) -> Result<(), String> {
        self.out = vec![compute(&self.gpu, &self.local)?];
        if let Some(global) = &self.global {
            self.out.push(compute(&self.gpu, global)?);
        }
        self.gpu.wait()
    }

    fn output(&mut self) -> Result<Vec<f32>, String> {
        let mut out = self.gpu.download_computed(&self.out[0], self.gpu.case.seqlen)?;
        if let Some(rows) = self.out.get(1) {
            let rows = self.gpu.download_computed(rows, self.gpu.case.globals.len())?;
            let len = rows.len() / self.places.len();
            for (row, &at) in rows.chunks_exact(len).zip(&self.places) {
                out[at..at + len].copy_from_slice(row);
            }
        }
        Ok(out)
    }
}
