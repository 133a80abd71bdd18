//! The decisions of a Gannet cluster, as plain state: who its members are ([`View`]), who fetches a
//! datum for all of them ([`View::ranked`]), how a datum that all want at once spreads among them
//! ([`Spread`]), what a member answers when another asks it ([`Desk`]), how one finds its way to a datum
//! ([`Errand`]), how long they wait for each other ([`Pace`]), and what ends the matter ([`Words`]).
//!
//! Nothing here does input or output, reads a clock or draws a number: the same calls give the same
//! answers, on every member and in a simulation. What moves bytes and looks up addresses is for those
//! who use it.
//!
//! - **One fetch in the cluster.** Each datum has a coordinator and a runner-up: the two members that
//!   rank highest for its key. All members rank alike as long as they see the same members, without a
//!   word between them, and one that comes or goes moves only its own share.
//! - **Nobody's link carries it all.** A coordinator sends a datum to a few; those who ask later are
//!   sent on to members that have it or are receiving it. So it reaches n members in O(log n) steps.

mod desk;
mod errand;
mod member;
mod pace;
mod placement;
mod spread;
mod view;
mod words;

pub use desk::{Ask, Desk, Have, Reply, Role};
pub use errand::{Ended, Errand, Step};
pub use member::Member;
pub use pace::{Beats, Pace, Passed};
pub use spread::{Answer, Spread, SpreadConfig};
pub use view::{Change, Through, View};
pub use words::Words;
