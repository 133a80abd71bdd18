//! A list that is nearly always of one: the first needs no allocation.

/// In the order in which they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Few<T> {
    first: Option<T>,
    /// Empty where there is no first.
    rest: Vec<T>,
}

impl<T> Few<T> {
    pub(crate) const fn new() -> Self {
        Self {
            first: None,
            rest: Vec::new(),
        }
    }

    pub(crate) const fn one(first: T) -> Self {
        Self {
            first: Some(first),
            rest: Vec::new(),
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn push(&mut self, item: T) {
        match &self.first {
            None => self.first = Some(item),
            Some(_) => self.rest.push(item),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().chain(&self.rest)
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.rest.retain(&mut keep);
        if self.first.as_ref().is_some_and(|first| !keep(first)) {
            self.first = None;
            self.close_up();
        }
    }

    /// Takes out the last one that is meant.
    pub(crate) fn take(&mut self, mut is: impl FnMut(&T) -> bool) -> Option<T> {
        if let Some(at) = self.rest.iter().rposition(&mut is) {
            return Some(self.rest.remove(at));
        }
        let first = self.first.take_if(|first| is(first));
        self.close_up();
        first
    }

    fn close_up(&mut self) {
        if self.first.is_none() && !self.rest.is_empty() {
            self.first = Some(self.rest.remove(0));
        }
    }
}

impl<T> IntoIterator for Few<T> {
    type Item = T;
    type IntoIter = std::iter::Chain<std::option::IntoIter<T>, std::vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_list() {
        let list = |items: &[u8]| {
            let mut few = Few::new();
            items.iter().for_each(|item| few.push(*item));
            assert_eq!(few.is_empty(), items.is_empty());
            few
        };
        let all = |few: Few<u8>| few.into_iter().collect::<Vec<u8>>();
        assert_eq!(Few::one(7), list(&[7]));
        for items in [&[][..], &[1], &[1, 2], &[1, 2, 1, 3]] {
            assert_eq!(all(list(items)), items);
            assert!(list(items).iter().eq(items));
            for out in 1..4 {
                let (mut few, mut vec) = (list(items), items.to_vec());
                few.retain(|item| *item != out);
                vec.retain(|item| *item != out);
                assert_eq!(all(few), vec);
                let (mut few, mut vec) = (list(items), items.to_vec());
                let at = vec.iter().rposition(|item| *item == out);
                assert_eq!(few.take(|item| *item == out), at.map(|at| vec.remove(at)));
                assert_eq!(all(few), vec);
            }
        }
    }
}
