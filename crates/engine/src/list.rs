//! A list that is nearly always of one, which then needs no allocation.

use std::ops::Deref;

/// A list; reads as a slice.
#[derive(Clone, Debug)]
pub enum List<T> {
    /// One member.
    One(T),
    /// Any number of them.
    Many(Vec<T>),
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T> Deref for List<T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl<T> FromIterator<T> for List<T> {
    #[inline]
    fn from_iter<I: IntoIterator<Item = T>>(all: I) -> Self {
        let mut all = all.into_iter();
        let Some(first) = all.next() else {
            return Self::default();
        };
        match all.next() {
            None => Self::One(first),
            Some(second) => Self::Many([first, second].into_iter().chain(all).collect()),
        }
    }
}

impl<T> From<List<T>> for Vec<T> {
    fn from(list: List<T>) -> Self {
        match list {
            List::One(one) => vec![one],
            List::Many(many) => many,
        }
    }
}

impl<'a, T> IntoIterator for &'a List<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: PartialEq> PartialEq for List<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq> Eq for List<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_list() {
        for count in 0..4_u8 {
            let vec: Vec<u8> = (0..count).collect();
            let list: List<u8> = vec.iter().copied().collect();
            assert_eq!(matches!(list, List::One(_)), count == 1);
            assert_eq!(*list, *vec);
            assert_eq!(list, List::Many(vec.clone()));
            assert_eq!(Vec::from(list), vec);
        }
    }
}
