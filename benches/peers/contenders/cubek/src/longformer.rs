use crate::Gpu;
use crate::forward::{flash, strategy};
use cubecl::ir::{ElemType, UIntKind};
use cubecl::std::tensor::TensorHandle;
use cubek_attention::forward::definition::AttentionGlobalTypes;
use peer::Contender;

/// Longformer as cubek can compute it: every row over all keys with a mask in memory, one for all
/// heads, then the rows of the global positions with their own projections.
pub struct Longformer {
    gpu: Gpu,
    local: [TensorHandle; 3],
    /// Not 0 where the row does not see the key: `[1, 1, seqlen, seqlen]`.
    mask: TensorHandle,
    global: [TensorHandle; 3],
    /// Where the global rows begin in the result.
    places: Vec<usize>,
    out: Option<(TensorHandle, Option<TensorHandle>)>,
}

impl Longformer {
    pub fn open(gpu: Gpu, inputs: Vec<Vec<f32>>) -> Result<Self, String> {
        let case = gpu.case.clone();
        let local = [0, 1, 2].map(|n| gpu.upload(&inputs[n]));
        let (places, qg) = case.global_rows(&inputs[3]);
        let qg = gpu.upload_rows(&qg, case.globals.len());
        let global = [qg, gpu.upload(&inputs[4]), gpu.upload(&inputs[5])];
        let elem = AttentionGlobalTypes::mask_dtype(&gpu.client);
        let bytes: Vec<u8> = match elem {
            ElemType::UInt(UIntKind::U8) => case.hidden().map(u8::from).collect(),
            _ => case.hidden().flat_map(|hidden| u32::from(hidden).to_le_bytes()).collect(),
        };
        let most = gpu.client.properties().memory.max_page_size;
        if bytes.len() as u64 > most {
            return Err(format!("the mask takes {} bytes, a binding {most}", bytes.len()));
        }
        let handle = gpu.client.create_from_slice(&bytes);
        let mask = TensorHandle::new_contiguous([1, 1, case.seqlen, case.seqlen], handle, elem);
        gpu.wait()?;
        Ok(Longformer { gpu, local, mask, global, places, out: None })
    }
}

impl Contender for Longformer {
    fn run(&mut self) -> Result<(), String> {
        let name = self.gpu.case.variant.as_str();
        let strategy = strategy(name).ok_or(format!("no variant {name:?}"))?;
        let all = flash(&self.gpu, strategy.clone(), &self.local, Some(&self.mask))?;
        let rows = match self.places.is_empty() {
            true => None,
            false => Some(flash(&self.gpu, strategy, &self.global, None)?),
        };
        self.out = Some((all, rows));
        self.gpu.wait()
    }

    fn output(&mut self) -> Result<Vec<f32>, String> {
        let (all, rows) = self.out.as_ref().expect("a run precedes");
        let mut out = self.gpu.download_heads_first(all, self.gpu.case.seqlen)?;
        if let Some(rows) = rows {
            let rows = self.gpu.download_heads_first(rows, self.gpu.case.globals.len())?;
            let len = rows.len() / self.places.len();
            for (row, &at) in rows.chunks_exact(len).zip(&self.places) {
                out[at..at + len].copy_from_slice(row);
            }
        }
        Ok(out)
    }
}
