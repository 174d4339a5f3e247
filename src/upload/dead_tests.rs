use std::cell::Cell;
use std::sync::Arc;

use super::*;
use crate::clock;
use crate::journal::{Identity, Journal};
use crate::part::PartPlan;
use crate::store::memory::MemoryStore;

struct World {
    journal: Arc<Journal>,
    uploads: Arc<Uploads>,
    _dir: tempfile::TempDir,
}

fn world(begun: u64) -> World {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity { endpoint: "e".into(), bucket: "b".into(), prefix: Key::default() };
    let journal = Journal::open(dir.path(), &identity).unwrap().0;
    for _ in 0..begun {
        begin(&journal);
    }
    let uploads =
        Uploads::new(Arc::new(MemoryStore::new()), journal.clone(), Key::from("aside/"), 0);
    World { journal, uploads, _dir: dir }
}

fn begin(journal: &Journal) -> DraftId {
    let draft = journal.next_draft_id();
    let key = Key::from(format!("key{draft}").as_str());
    let (plan, time) = (PartPlan::new(5 << 20, false), clock::wall());
    let begun = Record::DraftBegun { draft, key, plan, base: None, options: 0, time };
    journal.append(begun).unwrap();
    draft
}

impl World {
    fn dead(&self) -> Vec<DraftId> {
        self.uploads.dead().iter().map(|dead| dead.draft).collect()
    }
}

#[test]
fn dead_is_what_the_journal_knows_and_no_writer_has() {
    let world = world(3);
    assert_eq!(world.dead().len(), 3, "found at the mount");
    let taken_up = world.dead()[1];
    assert!(world.uploads.claim(taken_up));
    assert!(!world.uploads.claim(taken_up), "somebody has it");
    assert!(!world.dead().contains(&taken_up));

    let live = begin(&world.journal);
    assert!(!world.uploads.claim(live), "new: it was never dead");
    assert!(!world.dead().contains(&live));
    world.uploads.release(live);
    assert!(world.dead().contains(&live), "its owner left it");

    world.journal.append(Record::DraftEnded { draft: taken_up }).unwrap();
    world.uploads.release(taken_up);
    assert!(!world.dead().contains(&taken_up), "its owner ended it");
    world.uploads.release(world.journal.next_draft_id());
    assert_eq!(world.dead().len(), 3, "one of which nothing was recorded leaves nothing");
}

#[tokio::test]
async fn an_upload_that_is_disowned_is_dead() {
    let world = world(0);
    let draft = begin(&world.journal);
    let begun = Record::UploadBegun {
        draft,
        upload_id: UploadId("u".into()),
        metadata: Default::default(),
        content_type: None,
    };
    world.journal.append(begun).unwrap();
    let orphan = world.uploads.disown(draft).unwrap();
    assert_eq!(world.dead(), [orphan.unwrap()]);
}

/// Each publish looks for dead uploads of its key, and each part for one that has its content.
#[test]
fn who_looks_through_the_dead_does_not_meet_the_files_that_wait() {
    let world = world(2000);
    for draft in world.dead() {
        if draft % 500 != 0 {
            world.uploads.claim(draft);
        }
    }
    let looked_at = Cell::new(0);
    world.uploads.dead_drafts(|_, _| {
        looked_at.set(looked_at.get() + 1);
        None::<()>
    });
    assert_eq!(looked_at.get(), 4);
}
