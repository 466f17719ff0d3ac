//! The pilot's decisions, and nothing but decisions: no I/O, no clock, no randomness.
//!
//! [`agent::Agent`] is the machine; everything else here is a part of it:
//!
//! | module | question that it answers |
//! |---|---|
//! | [`slot_clock`] | when does the slot end, by everybody's word, and when are we killed? |
//! | [`rates`] | how fast does this node write suspended states? |
//! | [`deadline`] | when must the eviction of each guest begin? |
//! | [`admission`] | is a lease worth taking, and can we get rid of it in time? |
//! | [`checkpoint`] | when is a running guest's next checkpoint due? |
//! | [`lease_book`] | until when may a guest run without word from the broker? |
//! | [`rates`] | what does a suspend cost here? |
//! | [`line`] | who is suspended before whom? |
//! | [`guest`] | where is each lease in its life? |
//! | [`guest_words`] | what do pilot and guest say to each other? |
//! | [`spool`] | what has happened that the broker does not know yet? |
//! | [`usage`] | how was the slot used? |
//!
//! The shell feeds [`agent::Event`]s with the current [`now::Now`], carries out the
//! [`agent::Effect`]s that come back, and calls again at [`agent::Agent::next_wakeup`].
#![forbid(unsafe_code)]

pub mod admission;
pub mod agent;
pub mod checkpoint;
pub mod deadline;
pub mod guest;
pub mod guest_words;
pub mod lease_book;
pub mod line;
pub mod now;
pub mod rates;
pub mod settings;
pub mod slot_clock;
pub mod spool;
pub mod usage;
