//! Numbers with a shape.

use crate::{Error, Result};
use memmap2::Mmap;
use std::ops::Range;
use std::sync::Arc;

/// An f32 tensor, contiguous, last dimension fastest. A clone shares the elements.
///
/// A device's tensor will be one more variant of its elements, and an operation's trace for the
/// gradient one more field: models only ever hand tensors to [`ops`](crate::ops).
#[derive(Clone)]
pub struct Tensor {
    shape: Vec<usize>,
    elements: Elements,
}

#[derive(Clone)]
enum Elements {
    Owned(Arc<Vec<f32>>),
    /// Bytes of a file of weights, aligned for f32.
    Mapped(Arc<Mmap>, Range<usize>),
}

impl Tensor {
    /// A tensor of these elements.
    ///
    /// # Panics
    ///
    /// If there are not as many as the shape says: a mistake of the caller's, never of an input.
    pub fn new(shape: &[usize], elements: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), elements.len(), "elements of {shape:?}");
        Tensor { shape: shape.to_vec(), elements: Elements::Owned(Arc::new(elements)) }
    }

    /// Zeros.
    pub fn zeros(shape: &[usize]) -> Self {
        Tensor::new(shape, vec![0.0; shape.iter().product()])
    }

    /// One number, of shape `[1]`.
    pub fn scalar(x: f64) -> Self {
        Tensor::new(&[1], vec![x as f32])
    }

    /// Elements that lie in a mapped file, if they are aligned there and little-endian as here.
    pub(crate) fn mapped(shape: &[usize], file: &Arc<Mmap>, bytes: Range<usize>) -> Option<Self> {
        let fits = bytemuck::try_cast_slice::<u8, f32>(&file[bytes.clone()]).is_ok();
        (fits && cfg!(target_endian = "little")).then(|| Tensor {
            shape: shape.to_vec(),
            elements: Elements::Mapped(file.clone(), bytes),
        })
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements.
    pub fn data(&self) -> &[f32] {
        match &self.elements {
            Elements::Owned(x) => x,
            Elements::Mapped(file, bytes) => bytemuck::cast_slice(&file[bytes.clone()]),
        }
    }

    /// The elements, to change them; copied first if they are shared.
    pub fn data_mut(&mut self) -> &mut [f32] {
        if let Elements::Mapped(..) = self.elements {
            self.elements = Elements::Owned(Arc::new(self.data().to_vec()));
        }
        match &mut self.elements {
            Elements::Owned(x) => Arc::make_mut(x).as_mut_slice(),
            Elements::Mapped(..) => unreachable!("just copied"),
        }
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
        assert_eq!(shape.iter().product::<usize>(), self.data().len(), "reshape to {shape:?}");
        self.shape = shape.to_vec();
        self
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

    /// The two sizes of a matrix.
    ///
    /// # Errors
    ///
    /// If it is none or empty; `name` is what the error calls it.
    pub fn matrix(&self, name: &str) -> Result<[usize; 2]> {
        match self.shape[..] {
            [_, 0] | [0, _] => {
                Err(Error::invalid(name, format!("{:?}", self.shape), "must not be empty"))
            }
            [rows, columns] => Ok([rows, columns]),
            _ => Err(Error::invalid(name, format!("{:?}", self.shape), "must have 2 dimensions")),
        }
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
