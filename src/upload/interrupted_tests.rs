use std::cell::Cell;
use std::sync::Arc;

use super::*;
use crate::journal::Identity;
use crate::part::PartPlan;
use crate::store::UploadId;
use crate::store::memory::MemoryStore;

struct World {
    journal: Arc<Journal>,
    interrupted: Arc<Interrupted>,
    _dir: tempfile::TempDir,
}

fn world(begun: u64) -> World {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity { endpoint: "e".into(), bucket: "b".into(), prefix: Key::default() };
    let journal = Journal::open(dir.path(), &identity).unwrap().0;
    for _ in 0..begun {
        begin(&journal);
    }
    let interrupted = Interrupted::new(Turns::over(Arc::new(MemoryStore::new())), journal.clone());
    World { journal, interrupted, _dir: dir }
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
    fn listed(&self) -> Vec<DraftId> {
        self.interrupted.list().iter().map(|upload| upload.draft).collect()
    }
}

#[test]
fn interrupted_is_what_the_journal_knows_and_no_owner_has() {
    let world = world(3);
    assert_eq!(world.listed().len(), 3, "found at the mount");
    let taken_up = world.listed()[1];
    assert!(world.interrupted.claim(taken_up));
    assert!(!world.interrupted.claim(taken_up), "it has an owner");
    assert!(!world.listed().contains(&taken_up));

    let live = begin(&world.journal);
    assert!(!world.interrupted.claim(live), "new: it was never interrupted");
    assert!(!world.listed().contains(&live));
    world.interrupted.release(live);
    assert!(world.listed().contains(&live), "its owner left it");

    world.journal.append(Record::DraftEnded { draft: taken_up }).unwrap();
    world.interrupted.release(taken_up);
    assert!(!world.listed().contains(&taken_up), "its owner ended it");
    world.interrupted.release(world.journal.next_draft_id());
    assert_eq!(world.listed().len(), 3, "one of which nothing was recorded leaves nothing");
}

#[tokio::test]
async fn an_upload_that_is_disowned_is_interrupted() {
    let world = world(0);
    let draft = begin(&world.journal);
    let begun = Record::UploadBegun {
        draft,
        upload_id: UploadId("u".into()),
        metadata: Default::default(),
        content_type: None,
    };
    world.journal.append(begun).unwrap();
    let disowned = world.interrupted.disown(draft).unwrap();
    assert_eq!(world.listed(), [disowned.unwrap()]);
}

/// Each publish looks for interrupted uploads of its key, and each part for one that has its content.
#[test]
fn a_look_through_the_interrupted_meets_no_file_that_waits() {
    let world = world(2000);
    for draft in world.listed() {
        if draft % 500 != 0 {
            world.interrupted.claim(draft);
        }
    }
    let looked_at = Cell::new(0);
    world.interrupted.find(|_, _| {
        looked_at.set(looked_at.get() + 1);
        None::<()>
    });
    assert_eq!(looked_at.get(), 4);
}
