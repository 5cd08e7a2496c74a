//! Seeded damage for the tests of parsers: the same bytes on every run.

/// Calls `check` with `rounds` damaged copies of `seed`.
pub fn each(seed: &[u8], rounds: u32, mut check: impl FnMut(&[u8])) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..rounds {
        let mut bytes = seed.to_vec();
        for _ in 0..=random.below(4) {
            damage(&mut bytes, &mut random);
        }
        check(&bytes);
    }
}

struct Random(u64);

impl Random {
    /// xorshift64*
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    const TELLING: &[u8] = b"{}[]\",:\\-+.0e9nut/(=)!$\x00\xff \n";
    let at = random.below(bytes.len());
    match random.below(5) {
        0 => bytes.truncate(at),
        1 if at < bytes.len() => bytes[at] = random.next() as u8,
        2 if at < bytes.len() => {
            bytes.remove(at);
        }
        3 => {
            let end = (at + random.below(8)).min(bytes.len());
            let copied = bytes[at.min(end)..end].to_vec();
            let to = random.below(bytes.len() + 1);
            bytes.splice(to..to, copied);
        }
        _ => bytes.insert(at.min(bytes.len()), TELLING[random.below(TELLING.len())]),
    }
}
