//! What of a draft is on its way to the store, and what it may have become there.
//!
//! Pure but for the counts that all drafts of a mount share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::objects::Put;
use crate::journal::{Completing, MARKS_MAX};
use crate::store::{Mark, WriteOptions};
use crate::upload::Upload;

/// How many parts have arrived, and how many are on their way, of all drafts of a mount.
#[derive(Default)]
pub(in crate::writer) struct Counts {
    pub stored: AtomicUsize,
    pub sending: AtomicUsize,
}

#[derive(Default)]
pub(in crate::writer) struct Transfer {
    pub upload: Option<Arc<Upload>>,
    /// The upload may be the object by now: its completion was not answered.
    pub unsettled: Option<Completing>,
    /// PUTs that may have taken effect, the latest last.
    pub puts: Vec<Put>,
    /// Parts on their way: index and generation. One at a time of each index, or an older answer
    /// could overtake a newer one in the store.
    pub sending: BTreeMap<u32, u64>,
    /// How many want it to stand still: nothing begins to be on its way.
    pub still: usize,
    /// It is being published: even readable memory may go, once the store has it.
    pub is_publishing: bool,
    /// Of `Counts`.
    stored_share: usize,
    sending_share: usize,
}

impl Transfer {
    pub fn is_sending(&self, index: u32) -> bool {
        self.sending.contains_key(&index)
    }

    /// So many parts have arrived, for the other drafts of the mount to see.
    pub fn count_stored(&mut self, all: &Counts, parts: usize) {
        recount(&all.stored, &mut self.stored_share, parts);
    }

    /// Likewise those on their way.
    pub fn count_sending(&mut self, all: &Counts) {
        recount(&all.sending, &mut self.sending_share, self.sending.len());
    }

    /// The draft is over: it has no share in the counts any more.
    pub fn uncount(&mut self, all: &Counts) {
        recount(&all.stored, &mut self.stored_share, 0);
        recount(&all.sending, &mut self.sending_share, 0);
    }

    /// The mark of the last PUT, if that was of just this: a count of writes, and what the object carries.
    pub fn mark_of_put(&self, writes: u64, options: &WriteOptions) -> Option<&Mark> {
        let put = self.puts.last().filter(|put| !put.is_damaged)?;
        let (put_writes, put_options) = put.content.as_ref()?;
        ((*put_writes, put_options) == (writes, options)).then_some(&put.mark)
    }

    /// A PUT is about to be sent.
    pub fn note_put(&mut self, put: Put) {
        if self.puts.len() == MARKS_MAX {
            self.puts.remove(0);
        }
        self.puts.push(put);
    }

    /// It has become an object, whatever was on the way.
    pub fn settle(&mut self) {
        self.upload = None;
        self.unsettled = None;
        self.puts.clear();
    }
}

/// Changes one draft's share of a count of all.
fn recount(all: &AtomicUsize, own: &mut usize, now: usize) {
    let before = std::mem::replace(own, now);
    // Wraps where the share gets smaller; the sum does not.
    all.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_all_is_the_sum_of_the_shares() {
        let (all, mut shares) = (AtomicUsize::new(0), [0, 0]);
        for (own, now, sum) in [(0, 3, 3), (1, 5, 8), (0, 1, 6), (1, 0, 1), (0, 0, 0)] {
            recount(&all, &mut shares[own], now);
            assert_eq!(all.load(Ordering::Relaxed), sum);
        }
    }
}
