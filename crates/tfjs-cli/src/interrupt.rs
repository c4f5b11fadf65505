//! Ctrl-C.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

/// What shells say of a program that Ctrl-C ended.
pub(crate) const EXIT_CODE: u8 = 130;

/// Set by the first Ctrl-C while something waits for it.
static CANCEL: OnceLock<Arc<AtomicBool>> = OnceLock::new();
static WAITED_FOR: AtomicBool = AtomicBool::new(false);

/// On Ctrl-C, removes what is being written and ends the process as a shell expects; while a [`Cancel`] lives, the first
/// Ctrl-C only sets its flag.
pub(crate) fn install() {
    // Without a handler an interrupted command leaves its temporary files, which is no reason not to run it.
    let _ = ctrlc::set_handler(|| {
        if WAITED_FOR.load(Ordering::SeqCst)
            && CANCEL.get().is_some_and(|flag| !flag.swap(true, Ordering::SeqCst))
        {
            eprintln!("\nending after this batch; once more to end at once");
            return;
        }
        tfjs_format::io::discard_unfinished();
        std::process::exit(EXIT_CODE.into());
    });
}

/// Waits for Ctrl-C until it is dropped.
pub(crate) struct Cancel(pub(crate) Arc<AtomicBool>);

impl Cancel {
    pub(crate) fn new() -> Cancel {
        let flag = CANCEL.get_or_init(Arc::default).clone();
        flag.store(false, Ordering::SeqCst);
        WAITED_FOR.store(true, Ordering::SeqCst);
        Cancel(flag)
    }

    /// Whether Ctrl-C was pressed.
    pub(crate) fn pressed(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        WAITED_FOR.store(false, Ordering::SeqCst);
    }
}
