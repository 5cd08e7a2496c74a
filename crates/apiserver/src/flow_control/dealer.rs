//! Shuffle sharding: the few queues that one flow may use.
//!
//! A flow's hash -> a hand of distinct queues, the same every time. Two flows seldom share a whole hand, so one that floods
//! its queues leaves others a free one. Counterpart: `util/shufflesharding`.

/// A cheap, even mix of 64 bits (the finisher of splitmix64), so that similar names get unlike hands.
fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// FNV-1a over a schema's name and a flow's distinguisher, kept apart by a zero.
pub fn flow_hash(schema: &str, distinguisher: &str) -> u64 {
    let bytes = schema.bytes().chain([0]).chain(distinguisher.bytes());
    let start = 0xcbf2_9ce4_8422_2325;
    mixed(bytes.fold(start, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }))
}

/// `hand` distinct cards below `deck`: the first steps of a Fisher-Yates shuffle, driven by the hash.
pub fn deal(hash: u64, deck: usize, hand: usize) -> Vec<usize> {
    let mut dealt: Vec<usize> = Vec::with_capacity(hand);
    let mut bits = hash;
    for taken in 0..hand.min(deck) {
        let left = deck - taken;
        let mut card = (bits % left as u64) as usize;
        bits = mixed((bits / left as u64) ^ hash.rotate_left(taken as u32 + 1));
        // Count only cards that are still in the deck.
        let mut gone = dealt.clone();
        gone.sort_unstable();
        for lower in gone {
            card += usize::from(lower <= card);
        }
        dealt.push(card);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_holds_distinct_queues_and_is_always_the_same() {
        for flow in 0..500 {
            let hash = flow_hash("schema", &flow.to_string());
            let mut hand = deal(hash, 64, 8);
            assert_eq!(hand, deal(hash, 64, 8));
            hand.sort_unstable();
            hand.dedup();
            assert_eq!(hand.len(), 8);
            assert!(hand.iter().all(|card| *card < 64));
        }
        assert_eq!(deal(7, 1, 8), [0]);
    }

    #[test]
    fn queues_are_dealt_evenly() {
        let mut counts = [0; 16];
        for flow in 0..4000 {
            let hash = flow_hash("schema", &flow.to_string());
            deal(hash, 16, 4).into_iter().for_each(|card| counts[card] += 1);
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
