//! Several threads that go through the blocks of a file, each with a buffer of its own.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use memmap2::{Advice, MmapMut};

/// What a thread takes at once: one large page of memory, so that a disk gets it as one request of
/// one piece. From pages of 4 KiB a request has a piece for each and a quarter of the length
/// (measured on a virtual disk: half the rate, both ways).
pub(crate) const BLOCK: usize = 2 << 20;
/// Threads of a full effort: while some work, the others keep the disk's queue filled (measured: with
/// eight a suspend and a resume take a fifth less than with one more than there are processors).
const FULL: usize = 8;

/// What is done with one block, in two steps.
pub(crate) trait BlockWork: Sync {
    /// What comes out of the first step.
    type Made: Send;

    /// Fills `block` with what is at `at`, and works on it. Many at once, in any order.
    fn take(&self, block: &mut Buffer, at: u64) -> io::Result<Self::Made>;

    /// Brings it to where it is wanted: one at a time and in order, if the walk is in order.
    fn place(&self, block: &Buffer, at: u64, made: &Self::Made) -> io::Result<()>;
}

/// Works on all blocks that begin at `places`. Returns what was made of each, in their order, or
/// the error that was the first cause.
pub(crate) fn walk<W: BlockWork>(
    places: &[u64],
    effort: Effort,
    in_order: bool,
    work: &W,
) -> io::Result<Vec<W::Made>> {
    let walk = Walk {
        places,
        next: AtomicUsize::new(0),
        turns: in_order.then(Turns::default),
        work,
    };
    let ends = thread::scope(|scope| {
        let others: Vec<_> = (1..effort.threads().min(places.len()))
            .filter_map(|_| {
                let thread = thread::Builder::new().name("state-memory".into());
                // Fewer threads take longer, that is all.
                thread.spawn_scoped(scope, || walk.run()).ok()
            })
            .collect();
        let mut ends = vec![walk.run()];
        let died = |_| Err(io::Error::other("a thread that works on a memory died"));
        ends.extend(others.into_iter().map(|t| t.join().unwrap_or_else(died)));
        ends
    });
    let mut all = Vec::with_capacity(places.len());
    let mut failure: Option<io::Error> = None;
    for end in ends {
        match end {
            Ok(made) => all.extend(made),
            // Those that only stopped because another one failed say nothing of the cause.
            Err(e) if failure.as_ref().is_none_or(is_interrupted) => failure = Some(e),
            Err(_) => {}
        }
    }
    if let Some(e) = failure {
        return Err(e);
    }
    all.sort_unstable_by_key(|(n, _)| *n);
    Ok(all.into_iter().map(|(_, made)| made).collect())
}

/// True for the error of a walk that was called off.
pub(crate) fn is_interrupted(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::Interrupted
}

/// How much of the node work on a memory may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effort {
    /// All that helps: a guest stands still for it.
    Full,
    /// One thread: the guest that it is for runs on.
    Background,
}

impl Effort {
    const fn threads(self) -> usize {
        match self {
            Self::Background => 1,
            Self::Full => FULL,
        }
    }
}

struct Walk<'a, W> {
    places: &'a [u64],
    /// The next of them that nobody has taken.
    next: AtomicUsize,
    turns: Option<Turns>,
    work: &'a W,
}

impl<W: BlockWork> Walk<'_, W> {
    /// What each thread does. One that fails ends the others.
    fn run(&self) -> io::Result<Vec<(usize, W::Made)>> {
        let mut others = EndsOthers(Some(self));
        let mut block = Buffer::new()?;
        let mut all = Vec::new();
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(&at) = self.places.get(n) else { break };
            let made = self.work.take(&mut block, at)?;
            let turn = self.turns.as_ref().map(|t| t.wait(n)).transpose()?;
            self.work.place(&block, at, &made)?;
            if let Some((turns, turn)) = self.turns.as_ref().zip(turn) {
                turns.pass(turn);
            }
            all.push((n, made));
        }
        others.0 = None;
        Ok(all)
    }
}

/// Dropped while it still has a walk, it lets no thread take a block or wait for its turn.
struct EndsOthers<'a, 'w, W>(Option<&'a Walk<'w, W>>);

impl<W> Drop for EndsOthers<'_, '_, W> {
    fn drop(&mut self) {
        let Some(walk) = self.0 else { return };
        walk.next.store(walk.places.len(), Ordering::Relaxed);
        if let Some(turns) = &walk.turns {
            *turns.lock() = None;
            turns.passed.notify_all();
        }
    }
}

/// Whose turn it is; none when one of them failed.
struct Turns {
    turn: Mutex<Option<usize>>,
    passed: Condvar,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            turn: Mutex::new(Some(0)),
            passed: Condvar::new(),
        }
    }
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, Option<usize>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of block `n`, which lasts as long as the guard.
    fn wait(&self, n: usize) -> io::Result<MutexGuard<'_, Option<usize>>> {
        let another_s = |turn: &mut Option<usize>| turn.is_some_and(|turn| turn != n);
        let waited = self.passed.wait_while(self.lock(), another_s);
        let turn = waited.unwrap_or_else(PoisonError::into_inner);
        match *turn {
            Some(_) => Ok(turn),
            None => Err(io::ErrorKind::Interrupted.into()),
        }
    }

    fn pass(&self, mut turn: MutexGuard<'_, Option<usize>>) {
        *turn = turn.map(|n| n + 1);
        drop(turn);
        self.passed.notify_all();
    }
}

/// A block's bytes, in one large page of memory where the kernel has one to give.
pub(crate) struct Buffer {
    memory: MmapMut,
    start: usize,
    length: usize,
}

impl Buffer {
    fn new() -> io::Result<Self> {
        let memory = MmapMut::map_anon(2 * BLOCK)?;
        // A kernel that has none gives small ones.
        let _ = memory.advise(Advice::HugePage);
        let start = memory.as_ptr().align_offset(BLOCK);
        Ok(Self {
            memory,
            start,
            length: 0,
        })
    }

    /// A block of zeros.
    pub(crate) fn zeros() -> io::Result<Self> {
        let mut zeros = Self::new()?;
        zeros.length = BLOCK;
        Ok(zeros)
    }

    /// Room for the next block, which is `length` long, at most [`BLOCK`].
    pub(crate) fn room(&mut self, length: usize) -> &mut [u8] {
        self.length = length.min(BLOCK);
        &mut self.memory[self.start..self.start + self.length]
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count {
        placed: Mutex<Vec<u64>>,
        fails_at: Option<u64>,
    }

    impl Count {
        fn new(fails_at: Option<u64>) -> Self {
            let placed = Mutex::default();
            Self { placed, fails_at }
        }
    }

    impl BlockWork for Count {
        type Made = u64;

        fn take(&self, block: &mut Buffer, at: u64) -> io::Result<u64> {
            block.room(1)[0] = 1;
            Ok(at * 2)
        }

        fn place(&self, block: &Buffer, at: u64, made: &u64) -> io::Result<()> {
            assert_eq!((block.bytes(), *made), (&[1][..], at * 2));
            if self.fails_at == Some(at) {
                return Err(io::Error::other("no room"));
            }
            self.placed.lock().unwrap().push(at);
            Ok(())
        }
    }

    #[test]
    fn all_blocks_are_worked_on_once_and_in_order_where_that_is_wanted() {
        let places: Vec<u64> = (0..500).map(|n| n * 7).collect();
        for (in_order, effort) in [
            (true, Effort::Full),
            (false, Effort::Full),
            (false, Effort::Background),
        ] {
            let count = Count::new(None);
            let made = walk(&places, effort, in_order, &count).unwrap();
            assert!(made.iter().copied().eq(places.iter().map(|p| p * 2)));
            let mut placed = count.placed.into_inner().unwrap();
            if !in_order {
                placed.sort_unstable();
            }
            assert_eq!(placed, places, "in order: {in_order}");
        }
        assert_eq!(
            walk(&[], Effort::Full, true, &Count::new(None)).unwrap(),
            [0; 0]
        );
    }

    #[test]
    fn the_first_failure_ends_all_and_is_told() {
        let places: Vec<u64> = (0..500).collect();
        for in_order in [true, false] {
            let count = Count::new(Some(100));
            let e = walk(&places, Effort::Full, in_order, &count).unwrap_err();
            assert_eq!(e.to_string(), "no room");
            let placed = count.placed.into_inner().unwrap();
            if in_order {
                assert!(placed.iter().copied().eq(0..100), "{placed:?}");
            }
        }
    }
}
