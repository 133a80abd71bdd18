//! A sum tree over slots: draws in proportion to weight, uniformly, or the best, in O(log n).

/// What a subtree holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    /// Sum of weights.
    pub(crate) sum: u64,
    /// Greatest weight.
    pub(crate) best: u64,
    /// Members that can be drawn.
    pub(crate) count: u32,
}

impl Weight {
    pub(crate) const fn one(weight: u64) -> Self {
        Self {
            sum: weight,
            best: weight,
            count: 1,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            sum: self.sum.saturating_add(other.sum),
            best: self.best.max(other.best),
            count: self.count + other.count,
        }
    }
}

/// How to draw.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Draw {
    /// The member in which the running sum of weights passes this number.
    Weighted(u64),
    /// The member with this number.
    Uniform(u32),
    /// The first of the best.
    Best,
}

/// The tree as an array: node `i` has children `2i` and `2i + 1`; leaves are the upper half.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    nodes: Vec<Weight>,
}

impl Weights {
    pub(crate) const fn new() -> Self {
        Self { nodes: Vec::new() }
    }

    fn leaves(&self) -> usize {
        self.nodes.len() / 2
    }

    pub(crate) fn total(&self) -> Weight {
        self.nodes.get(1).copied().unwrap_or_default()
    }

    pub(crate) fn set(&mut self, slot: u32, weight: Weight) {
        let slot = slot as usize;
        if slot >= self.leaves() {
            if weight == Weight::default() {
                return;
            }
            self.grow(slot + 1);
        }
        let mut i = slot + self.leaves();
        let mut weight = weight;
        self.nodes[i] = weight;
        while i > 1 {
            // With its sibling, whichever side that is on.
            weight = weight.plus(self.nodes[i ^ 1]);
            i /= 2;
            self.nodes[i] = weight;
        }
    }

    pub(crate) fn at(&self, slot: u32) -> Weight {
        self.nodes
            .get(slot as usize + self.leaves())
            .copied()
            .unwrap_or_default()
    }

    /// The slot drawn, and what is left of the draw for a tree below it.
    pub(crate) fn draw(&self, mut draw: Draw) -> Option<(u32, Draw)> {
        let total = self.total();
        if total.count == 0 {
            return None;
        }
        let mut i = 1;
        while i < self.leaves() {
            let left = self.nodes[2 * i];
            let go_left = match &mut draw {
                Draw::Weighted(rest) => {
                    // A right side without members is never entered, whatever the rest.
                    let left_it = *rest < left.sum || self.nodes[2 * i + 1].count == 0;
                    if !left_it {
                        *rest -= left.sum;
                    }
                    left_it
                }
                Draw::Uniform(rest) => {
                    let left_it = *rest < left.count;
                    if !left_it {
                        *rest -= left.count;
                    }
                    left_it
                }
                Draw::Best => {
                    left.count > 0
                        && (left.best >= self.nodes[2 * i + 1].best
                            || self.nodes[2 * i + 1].count == 0)
                }
            };
            i = 2 * i + usize::from(!go_left);
        }
        (self.nodes[i].count > 0).then(|| ((i - self.leaves()) as u32, draw))
    }

    fn grow(&mut self, slots: usize) {
        let leaves = slots.next_power_of_two().max(4);
        let mut nodes = vec![Weight::default(); 2 * leaves];
        let old = self.leaves();
        nodes[leaves..leaves + old].copy_from_slice(&self.nodes[old..]);
        for i in (1..leaves).rev() {
            nodes[i] = nodes[2 * i].plus(nodes[2 * i + 1]);
        }
        self.nodes = nodes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_in_proportion_and_never_an_absent_one() {
        let mut tree = Weights::new();
        assert!(tree.draw(Draw::Best).is_none());
        let weights = [5u64, 0, 1, 7, 0, 3];
        for (slot, weight) in weights.into_iter().enumerate() {
            if weight > 0 {
                tree.set(slot as u32, Weight::one(weight));
            }
        }
        let total = tree.total();
        assert_eq!((total.sum, total.count, total.best), (16, 4, 7));
        let mut seen = [0u64; 6];
        for r in 0..total.sum {
            seen[tree.draw(Draw::Weighted(r)).expect("not empty").0 as usize] += 1;
        }
        assert_eq!(seen, weights);
        let uniform: Vec<u32> = (0..4)
            .map(|k| tree.draw(Draw::Uniform(k)).expect("not empty").0)
            .collect();
        assert_eq!(uniform, [0, 2, 3, 5]);
        assert_eq!(tree.draw(Draw::Best).expect("not empty").0, 3);
        tree.set(3, Weight::default());
        assert_eq!(tree.draw(Draw::Best).expect("not empty").0, 0);
        tree.set(100, Weight::one(50));
        assert_eq!(tree.draw(Draw::Best).expect("not empty").0, 100);
        assert_eq!(tree.at(0).sum, 5);
    }
}
