//! Which addresses are everybody's: IANA's registries of special-purpose addresses (RFC 6890), as known in
//! 2026, and what else leads to this machine, its network, or whoever runs it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What may be connected to. A value, so that tests can try the rest against this machine.
#[derive(Clone, Copy)]
pub(super) struct Reach {
    is_allowed: fn(IpAddr) -> bool,
    is_port_allowed: fn(u16) -> bool,
}

impl Reach {
    /// Web servers that anybody can reach.
    pub const PUBLIC: Reach = Reach {
        is_allowed: is_public,
        is_port_allowed: |port| matches!(port, 80 | 443),
    };

    #[cfg(test)]
    pub const fn of(is_allowed: fn(IpAddr) -> bool, is_port_allowed: fn(u16) -> bool) -> Self {
        Self {
            is_allowed,
            is_port_allowed,
        }
    }

    pub fn has(self, address: IpAddr) -> bool {
        (self.is_allowed)(address)
    }

    pub fn has_port(self, port: u16) -> bool {
        (self.is_port_allowed)(port)
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Azure's host, which answers virtual machines alone (page "What is IP address 168.63.129.16?"; known,
/// not read anew). Other clouds' metadata servers have link-local, shared or reserved addresses.
const AZURE_HOST: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

fn is_public_v4(address: Ipv4Addr) -> bool {
    let is_special = match address.octets() {
        // "This network", this machine, multicast, reserved, and broadcast with it.
        [0 | 127 | 224..=255, ..] => true,
        // Private (RFC 1918).
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => true,
        // Shared by a carrier's customers (RFC 6598).
        [100, 64..=127, ..] => true,
        // Link-local (RFC 3927), where most clouds have their metadata.
        [169, 254, ..] => true,
        // Protocols' own (RFC 6890), documentation (RFC 5737), 6to4's relays (RFC 7526).
        [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _] => true,
        // Benchmarks (RFC 2544).
        [198, 18 | 19, ..] => true,
        _ => false,
    };
    !is_special && address != AZURE_HOST
}

/// Of IPv6 only global unicast (2000::/3), less what is special in it, and addresses that stand for a
/// public one of IPv4.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let last = |segments: [u16; 8]| {
        let [.., high, low] = segments;
        Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))
    };
    match address.segments() {
        // Mapped (RFC 4291), and a network's translation to IPv4 (RFC 6052): all that a machine without
        // IPv4 knows of a server without IPv6.
        segments @ ([0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..]) => {
            is_public_v4(last(segments))
        }
        // Protocols' own (RFC 2928), Teredo with them: 2001::/23.
        [0x2001, 0..=0x1ff, ..] => false,
        // Documentation (RFC 3849, RFC 9637).
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // 6to4 (RFC 3056): any address of IPv4 may stand in it, and nobody serves there any more.
        [0x2002, ..] => false,
        [0x2000..=0x3fff, ..] => true,
        // Unspecified, loopback, link-local, unique local, multicast, local translation and the rest.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_everybodys_addresses_are_public() {
        for (addresses, is_expected) in [
            (
                // Most stand right beside a special range.
                "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 93.184.215.14 100.63.255.255 100.128.0.0 \
                 128.0.0.0 126.255.255.255 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 \
                 192.0.1.0 192.0.3.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 \
                 198.51.99.255 203.0.112.255 223.255.255.255 168.63.129.15",
                true,
            ),
            (
                "0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.0 100.100.100.200 \
                 100.127.255.255 127.0.0.1 127.255.255.255 169.254.0.1 169.254.169.254 \
                 169.254.170.2 172.16.0.0 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 \
                 192.88.99.1 192.168.0.1 192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.1 \
                 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 168.63.129.16",
                false,
            ),
            (
                "2606:4700:4700::1111 2001:4860:4860::8888 2001:200:: 2003:: 2a00:1450::1 \
                 3ffe::1 3fff:1000:: 2000::1",
                true,
            ),
            (
                ":: ::1 ::2 fe80::1 fe80::1:2 febf::1 fec0::1 fc00::1 fd00::1 fd00:ec2::254 \
                 ff02::1 ff0e::1 2001:db8::1 3fff::1 3fff:fff:ffff:: 2001::1 2001:0:4136:e378::1 \
                 2001:1ff:: 2001:20::1 2002:: 2002:c0a8:0101::1 2002:0101:0101::1 100::1 \
                 5f00::1 64:ff9b:1::1 64:ff9b:1::808:808 4000::1 1fff::1",
                false,
            ),
            // As IPv4: mapped and translated.
            ("::ffff:8.8.8.8 64:ff9b::8.8.8.8 64:ff9b::101:101", true),
            (
                "::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0.0.0.0 \
                 ::ffff:100.64.0.1 ::ffff:224.0.0.1 64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 \
                 64:ff9b::169.254.169.254 ::127.0.0.1 ::8.8.8.8 ::ffff:0:8.8.8.8 64:ff9b:0:1::8.8.8.8",
                false,
            ),
        ] {
            for address in addresses.split_whitespace() {
                let parsed: IpAddr = address.parse().unwrap();
                assert_eq!(Reach::PUBLIC.has(parsed), is_expected, "{address}");
            }
        }
    }

    #[test]
    fn only_the_webs_ports_are_public() {
        for (port, is_expected) in [
            (80, true),
            (443, true),
            (0, false),
            (22, false),
            (8080, false),
            (6379, false),
        ] {
            assert_eq!(Reach::PUBLIC.has_port(port), is_expected, "{port}");
        }
    }
}
