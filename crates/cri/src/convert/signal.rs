//! The signals a container can be stopped with, which CRI numbers in an order of its own.

use super::Unknown;

/// In the order of their numbers in CRI, from one; zero leaves it to the image.
const SIGNALS: [&str; 65] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMAX-14",
    "SIGRTMAX-13",
    "SIGRTMAX-12",
    "SIGRTMAX-11",
    "SIGRTMAX-10",
    "SIGRTMAX-9",
    "SIGRTMAX-8",
    "SIGRTMAX-7",
    "SIGRTMAX-6",
    "SIGRTMAX-5",
    "SIGRTMAX-4",
    "SIGRTMAX-3",
    "SIGRTMAX-2",
    "SIGRTMAX-1",
    "SIGRTMAX",
];

pub fn signal_number(name: &str) -> i32 {
    let place = SIGNALS.iter().position(|known| *known == name);
    place.and_then(|place| i32::try_from(place + 1).ok()).unwrap_or(0)
}

pub fn signal_name(value: i32) -> Result<Option<&'static str>, Unknown> {
    let unknown = Unknown { what: "Signal", value };
    match usize::try_from(value).map_err(|_| unknown)?.checked_sub(1) {
        None => Ok(None),
        Some(place) => SIGNALS.get(place).copied().map(Some).ok_or(unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_the_specifications_numbers() {
        for (name, number) in [
            ("SIGABRT", 1),
            ("SIGTERM", 23),
            ("SIGRTMIN", 35),
            ("SIGRTMAX-14", 51),
            ("SIGRTMAX", 65),
        ] {
            assert_eq!((signal_number(name), signal_name(number)), (number, Ok(Some(name))));
        }
        assert_eq!(signal_name(0), Ok(None));
        assert!(signal_name(66).is_err() && signal_name(-1).is_err());
    }
}
