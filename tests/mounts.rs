//! All tests that start servers and mounts, in one program: linked one by one they would take longer than they run.
//!
//! A file a subject; each says what it is about. What they share is in `support`.

mod support;

mod crash;
mod credential_sources;
mod credentials;
mod damage;
mod degraded;
mod doctor;
mod embedded_faults;
mod embedded_store;
mod faulty_memory;
mod files;
mod fsx;
mod headers;
mod hostile;
mod hostile_store;
mod identity;
mod integrity;
mod killed;
mod limits;
mod metadata;
mod mount_scale;
mod mounting;
mod offline;
mod ours;
mod outage;
mod pressure;
mod proven;
mod providers;
mod ranges;
mod reading;
mod resume;
mod seaweedfs;
mod server_side;
mod stalls;
mod store_conformance;
mod store_faults;
mod stuck;
mod takedown;
mod transport;
mod two_mounts;
mod versions;
mod visibility;
mod write_back;
