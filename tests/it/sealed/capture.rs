//! What a box on the way could capture: every packet of loopback to and from one port, as the kernel shows it
//! to whoever may see packets.

use std::collections::{BTreeMap, HashMap};
use std::io::{ErrorKind, Read};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// packet(7): the domain, the type that leaves out the link's own header, and the protocol IPv4 in network
/// order.
const PACKETS: i32 = 17;
const COOKED: i32 = 2;
const IPV4: i32 = 0x0008;

/// From one look at the stop to the next.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Packets that wait to be read; more are lost, and the test counts the bytes.
const BUFFER_BYTES: usize = 8 << 20;
/// IPv4's longest packet.
const PACKET_BYTES_MAX: usize = 65_535;

/// What went one way over one connection, by the packets' sequence numbers.
type Way = BTreeMap<u32, Vec<u8>>;

pub struct Capture {
    stop: Arc<AtomicBool>,
    reading: JoinHandle<Vec<Vec<u8>>>,
}

impl Capture {
    /// `None` where this process may not see packets.
    pub fn start(port: u16) -> Option<Self> {
        let protocol = Some(Protocol::from(IPV4));
        let socket = Socket::new(Domain::from(PACKETS), Type::from(COOKED), protocol).ok()?;
        socket.set_read_timeout(Some(LOOK_EVERY)).unwrap();
        socket.set_recv_buffer_size(BUFFER_BYTES).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let of_thread = Arc::clone(&stop);
        let reading = std::thread::spawn(move || read(socket, port, &of_thread));
        Some(Self { stop, reading })
    }

    /// What went each way over each connection, and the end of it.
    pub fn take(self) -> Vec<Vec<u8>> {
        self.stop.store(true, Ordering::Relaxed);
        self.reading.join().unwrap()
    }
}

fn read(mut socket: Socket, port: u16, stop: &AtomicBool) -> Vec<Vec<u8>> {
    let mut ways: HashMap<(u16, u16), Way> = HashMap::new();
    let mut packet = vec![0; PACKET_BYTES_MAX];
    // What was there before the stop is read to its end.
    loop {
        match socket.read(&mut packet) {
            Ok(count) => keep(&packet[..count], port, &mut ways),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            Err(error) => panic!("packets cannot be read: {error}"),
        }
    }
    let whole = ways.into_values().map(|way| {
        let packets = way.into_values();
        packets.flatten().collect()
    });
    whole.collect()
}

/// RFC 791, section 3.1; RFC 9293, section 3.1. Loopback shows a packet twice: as it goes and as it comes.
fn keep(packet: &[u8], port: u16, ways: &mut HashMap<(u16, u16), Way>) {
    const TCP: u8 = 6;
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    if packet.len() < 40 || packet[0] >> 4 != 4 || packet[9] != TCP {
        return;
    }
    let is_loopback = |at: usize| {
        let bytes: [u8; 4] = packet[at..at + 4].try_into().unwrap();
        Ipv4Addr::from(bytes).is_loopback()
    };
    let tcp = usize::from(packet[0] & 15) * 4;
    let end = usize::from(word(2));
    if packet.len() < tcp + 20 || packet.len() < end || !is_loopback(12) || !is_loopback(16) {
        return;
    }
    let ports = (word(tcp), word(tcp + 2));
    let content = tcp + usize::from(packet[tcp + 12] >> 4) * 4;
    if (ports.0 != port && ports.1 != port) || content >= end {
        return;
    }
    let sequence = u32::from_be_bytes(packet[tcp + 4..tcp + 8].try_into().unwrap());
    let way = ways.entry(ports).or_default();
    way.insert(sequence, packet[content..end].to_vec());
}
