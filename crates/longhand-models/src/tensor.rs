//! Numbers with a shape.

use crate::gpu::{Buffer, Gpu};
use crate::{Device, Error, Result, reject, require};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// An f32 tensor, contiguous, last dimension fastest. A clone shares the elements.
///
/// They lie on the host or on a GPU, where [`ops`](crate::ops) leave what they make of a tensor that
/// lies there; [`data`](Self::data) brings them to the host. An operation's trace for the gradient
/// will be one more field: models only ever hand tensors to `ops`.
#[derive(Clone)]
pub struct Tensor {
    shape: Vec<usize>,
    elements: Arc<Elements>,
}

/// Elements where they were made, and their copy on the other side if it was asked for.
#[derive(Default)]
struct Elements {
    host: OnceLock<Data>,
    device: OnceLock<Arc<Buffer>>,
    made_on_device: bool,
}

pub(crate) enum Data {
    Owned(Vec<f32>),
    /// Bytes of a file of weights, aligned for f32.
    Mapped(Bytes, Range<usize>),
}

/// A file's contents, mapped or read.
pub(crate) type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

impl Tensor {
    /// A tensor of these elements.
    ///
    /// # Panics
    ///
    /// If there are not as many as the shape says: a mistake of the caller's, never of an input.
    pub fn new(shape: &[usize], elements: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), elements.len(), "elements of {shape:?}");
        Tensor::of(shape, Data::Owned(elements))
    }

    fn of(shape: &[usize], data: Data) -> Self {
        let elements = Elements { host: OnceLock::from(data), ..Elements::default() };
        Tensor { shape: shape.to_vec(), elements: Arc::new(elements) }
    }

    /// Zeros.
    pub fn zeros(shape: &[usize]) -> Self {
        Tensor::new(shape, vec![0.0; shape.iter().product()])
    }

    /// Elements that lie in a mapped file, if they are aligned there and little-endian as here.
    pub(crate) fn mapped(shape: &[usize], file: &Bytes, bytes: Range<usize>) -> Option<Self> {
        let fits = bytemuck::try_cast_slice::<u8, f32>(&(**file).as_ref()[bytes.clone()]).is_ok();
        (fits && cfg!(target_endian = "little"))
            .then(|| Tensor::of(shape, Data::Mapped(file.clone(), bytes)))
    }

    /// What a GPU has made.
    pub(crate) fn on_gpu(shape: &[usize], buffer: impl Into<Arc<Buffer>>) -> Self {
        let (host, device) = (OnceLock::new(), OnceLock::from(buffer.into()));
        let elements = Elements { host, device, made_on_device: true };
        Tensor { shape: shape.to_vec(), elements: Arc::new(elements) }
    }

    /// The GPU that the elements lie on, if they lie on one.
    pub(crate) fn gpu(&self) -> Option<&Gpu> {
        let made_there = self.elements.device.get().filter(|_| self.elements.made_on_device);
        made_there.map(|buffer| &buffer.gpu)
    }

    /// The elements on `gpu`: they go up once, to the GPU that first asks.
    pub(crate) fn buffer(&self, gpu: &Gpu) -> Arc<Buffer> {
        let upload = || Arc::new(gpu.upload(bytemuck::cast_slice(self.data())));
        let copy = self.elements.device.get_or_init(upload);
        if copy.gpu == *gpu { copy.clone() } else { upload() }
    }

    /// The tensor where `device` computes: operations on it run there.
    pub fn on(&self, device: &Device) -> Self {
        match device {
            Device::Gpu(gpu) if self.gpu() != Some(gpu) => {
                Tensor::on_gpu(&self.shape, self.buffer(gpu))
            }
            _ => self.clone(),
        }
    }

    /// Of a tensor that lies on `gpu` and was not fetched yet: where it lies, and the place for its
    /// elements.
    pub(crate) fn missing_on_host(&self, gpu: &Gpu) -> Option<(&Buffer, &OnceLock<Data>)> {
        let Elements { host, device, .. } = &*self.elements;
        let buffer = device.get().filter(|buffer| buffer.gpu == *gpu);
        Some((&**buffer?, host)).filter(|_| host.get().is_none())
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its sizes; `name` is what an error calls it.
    ///
    /// # Errors
    ///
    /// If it has another number of dimensions, or is empty.
    pub fn sizes<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        sizes(name, &self.shape)
    }

    /// The elements. From a GPU they come once, and what is queued there is waited for; from one that
    /// has failed they are NaN.
    pub fn data(&self) -> &[f32] {
        let Elements { host, device, .. } = &*self.elements;
        let fetched = || device.get().map(|buffer| buffer.gpu.read_back(buffer));
        match host.get_or_init(|| Data::Owned(fetched().unwrap_or_default())) {
            Data::Owned(x) => x,
            Data::Mapped(file, bytes) => bytemuck::cast_slice(&(**file).as_ref()[bytes.clone()]),
        }
    }

    /// The elements on the host, to change them; copied first if they are shared.
    pub fn data_mut(&mut self) -> &mut [f32] {
        let is_own = matches!(self.elements.host.get(), Some(Data::Owned(_)));
        if self.elements.made_on_device || !is_own || Arc::get_mut(&mut self.elements).is_none() {
            *self = Tensor::new(&self.shape, self.data().to_vec());
        }
        let Some(Elements { host, device, .. }) = Arc::get_mut(&mut self.elements) else {
            unreachable!("one owner")
        };
        device.take();
        let Some(Data::Owned(data)) = host.get_mut() else { unreachable!("just made") };
        data
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements in the last dimension; 1 of a tensor without dimensions.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Rows of [`width`](Self::width) elements.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len().saturating_sub(1)].iter().product()
    }

    /// Row `i` of [`rows`](Self::rows).
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data()[i * self.width()..][..self.width()]
    }

    /// The same elements under another shape.
    ///
    /// # Panics
    ///
    /// If it has another number of elements.
    pub fn reshape(mut self, shape: &[usize]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), self.len(), "reshape to {shape:?}");
        self.shape = shape.to_vec();
        self
    }
}

impl AsRef<[f32]> for Tensor {
    fn as_ref(&self) -> &[f32] {
        self.data()
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor{:?}", self.shape)
    }
}

/// An i32 tensor: ids, labels, masks.
#[derive(Debug, Clone, PartialEq)]
pub struct Ints {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Contiguous elements.
    pub data: Vec<i32>,
}

impl Ints {
    /// An i32 tensor.
    ///
    /// # Panics
    ///
    /// If the elements are not as many as the shape says.
    pub fn new(shape: &[usize], data: Vec<i32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "elements of {shape:?}");
        Ints { shape: shape.to_vec(), data }
    }

    /// The integers whose bits are a tensor's elements.
    pub fn of_bits(bits: &Tensor) -> Self {
        Ints::new(bits.shape(), bits.data().iter().map(|x| x.to_bits() as i32).collect())
    }

    /// The integers that a tensor's elements are.
    pub fn of_numbers(numbers: &Tensor) -> Self {
        Ints::new(numbers.shape(), numbers.data().iter().map(|&x| x as i32).collect())
    }

    /// Its sizes; `name` is what an error calls it.
    ///
    /// # Errors
    ///
    /// If it has another number of dimensions, or is empty.
    pub fn sizes<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        sizes(name, &self.shape)
    }

    /// A mask as bytes; `name` is what an error calls it.
    ///
    /// # Errors
    ///
    /// If it holds something other than 0 and 1.
    pub fn mask(&self, name: &str) -> Result<Vec<u8>> {
        let bad = |x| Error::invalid(name, x, "must hold 0 or 1");
        reject(self.data.iter().find(|&&x| x != 0 && x != 1), bad)?;
        Ok(self.data.iter().map(|&x| x as u8).collect())
    }

    /// The elements as indices below `end`.
    ///
    /// # Errors
    ///
    /// For the first that is none; `name` is what the error calls the tensor.
    pub fn indices(&self, name: &str, end: usize) -> Result<Vec<usize>> {
        let index = |(i, &x): (usize, &i32)| {
            let bad = || Error::invalid(format!("{name}[{i}]"), x, format!("must be below {end}"));
            usize::try_from(x).ok().filter(|&x| x < end).ok_or_else(bad)
        };
        self.data.iter().enumerate().map(index).collect()
    }
}

fn sizes<const N: usize>(name: &str, shape: &[usize]) -> Result<[usize; N]> {
    let rule = || format!("must have {N} dimension{}", if N == 1 { "" } else { "s" });
    let sizes = shape.try_into().map_err(|_| Error::shape(name, shape, rule()))?;
    let empty = || Error::shape(name, shape, "must not be empty");
    require(!shape.contains(&0), empty).map(|()| sizes)
}
