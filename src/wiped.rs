//! [`Wiped`]: text or bytes that are wiped from memory in one block.

use std::{
    mem,
    ops::{Deref, DerefMut},
};

use zeroize::Zeroize;

/// Wipes a `String` or a `Vec<u8>` when it is dropped.
///
/// `zeroize::Zeroizing` wipes these byte by byte, which took longer than opening the seal of a stored token.
#[derive(Default)]
pub(crate) struct Wiped<T: Default + Into<Vec<u8>>> {
    value: T,
}

impl<T: Default + Into<Vec<u8>>> Wiped<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value }
    }
}

impl<T: Default + Into<Vec<u8>>> Drop for Wiped<T> {
    fn drop(&mut self) {
        let mut bytes: Vec<u8> = mem::take(&mut self.value).into();
        bytes.as_mut_slice().zeroize();
        bytes.spare_capacity_mut().zeroize();
    }
}

impl<T: Default + Into<Vec<u8>>> Deref for Wiped<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Default + Into<Vec<u8>>> DerefMut for Wiped<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: Default + Into<Vec<u8>> + AsRef<[u8]>> AsRef<[u8]> for Wiped<T> {
    fn as_ref(&self) -> &[u8] {
        self.value.as_ref()
    }
}
