//! Reads from the image's own `/etc/fstab` which partitions belong to the root.

/// A line that mounts something below the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// What: `UUID=…`, `LABEL=…` or a device.
    pub source: String,
    /// Where, without the first slash.
    pub directory: String,
    /// The mount option that names a btrfs subvolume.
    pub subvolume: Option<String>,
}

/// File systems that hold no files of an installed system.
const NOT_OURS: [&str; 12] =
    ["swap", "proc", "sysfs", "tmpfs", "devpts", "vfat", "msdos", "iso9660", "udf", "nfs", "nfs4", "cifs"];

/// Options by which a line is not mounted when the system starts.
const NOT_MOUNTED: [&str; 3] = ["noauto", "bind", "rbind"];

/// The lines for directories other than the root, outer ones first.
pub(super) fn parse(text: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = text.lines().filter_map(line).collect();
    lines.sort_by(|a, b| a.directory.cmp(&b.directory));
    lines
}

fn line(text: &str) -> Option<Line> {
    let mut fields = text.split('#').next()?.split_ascii_whitespace();
    let (source, directory, kind) = (fields.next()?, unescaped(fields.next()?), fields.next()?);
    let options: Vec<&str> = fields.next().unwrap_or_default().split(',').collect();
    let directory = directory.strip_prefix('/')?.trim_end_matches('/');
    let plain = !directory.is_empty() && directory.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let is_ours = !NOT_OURS.contains(&kind) && !options.iter().any(|option| NOT_MOUNTED.contains(option));
    if !plain || !is_ours {
        return None;
    }
    let subvolume = options.iter().find(|option| option.starts_with("subvol=") || option.starts_with("subvolid="));
    let subvolume = subvolume.map(|option| (*option).to_owned());
    Some(Line { source: unescaped(source), directory: directory.to_owned(), subvolume })
}

/// Blanks in names are written as three octal digits.
fn unescaped(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(u8::is_ascii) {
            Some(byte) => {
                text.push(char::from(byte));
                text.push_str(&part[3..]);
            }
            None => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    text
}

/// How a source names a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Uuid(String),
    Label(String),
    PartUuid(String),
    PartLabel(String),
    /// By its number, whatever the name of the disk was.
    Number(u32),
    Unknown,
}

impl Source {
    pub fn parse(text: &str) -> Self {
        let (kind, name) = match text.split_once('=') {
            Some((kind, name)) => (kind, name.trim_matches(['"', '\''])),
            // The links that udev makes.
            None => match text.strip_prefix("/dev/disk/by-").and_then(|link| link.split_once('/')) {
                Some((kind, name)) => (kind, name),
                None => return Self::of_device(text),
            },
        };
        let name = decoded(name);
        match kind.to_ascii_lowercase().as_str() {
            "uuid" => Self::Uuid(name),
            "label" => Self::Label(name),
            "partuuid" => Self::PartUuid(name),
            "partlabel" => Self::PartLabel(name),
            // The names of a disk are those of the machine that it was in, but partitions keep their numbers.
            "id" | "path" => {
                let number = name.rsplit_once("-part").and_then(|(_, number)| number.parse().ok());
                number.map_or(Self::Unknown, Self::Number)
            }
            _ => Self::Unknown,
        }
    }

    fn of_device(text: &str) -> Self {
        let number = || {
            let device = text.strip_prefix("/dev/").filter(|name| !name.contains('/'))?;
            let name = device.trim_end_matches(|c: char| c.is_ascii_digit());
            // Names of other devices end in a number too.
            let is_disk = ["sd", "vd", "hd", "xvd", "nvme", "mmcblk"].iter().any(|kind| name.starts_with(kind));
            device[name.len()..].parse().ok().filter(|_| is_disk)
        };
        number().map_or(Self::Unknown, Self::Number)
    }
}

/// In the names of links udev writes bytes that do not fit as `\x20`.
fn decoded(name: &str) -> String {
    let mut parts = name.split("\\x");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(u8::is_ascii) {
            Some(byte) => {
                text.push(char::from(byte));
                text.push_str(&part[2..]);
            }
            None => {
                text.push_str("\\x");
                text.push_str(part);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_that_belong_to_the_installed_files_are_kept() {
        let text = "\
# a comment
UUID=aa  /      ext4 errors=remount-ro 0 1
LABEL=\"var\" /var/  ext4 defaults 0 2 # theirs
/dev/sda5 /usr/local xfs defaults
/dev/sda6 /usr btrfs subvol=@usr,ro
/dev/sda2 none swap sw
/dev/sda1 /boot/efi vfat umask=0077
tmpfs /tmp tmpfs
/dev/sr0 /media auto noauto
/dev/sdb1 /../etc ext4
server:/home /home nfs
half
";
        let lines = parse(text);
        let shown: Vec<_> = lines.iter().map(|l| (l.source.as_str(), l.directory.as_str())).collect();
        assert_eq!(shown, [("/dev/sda6", "usr"), ("/dev/sda5", "usr/local"), ("LABEL=\"var\"", "var")]);
        assert_eq!(lines[0].subvolume.as_deref(), Some("subvol=@usr"));
    }

    #[test]
    fn a_partition_is_named_in_many_ways() {
        let label = |name: &str| Source::Label(name.to_owned());
        for (text, expected) in [
            ("UUID=1-2", Source::Uuid("1-2".to_owned())),
            ("UUID=\"1-2\"", Source::Uuid("1-2".to_owned())),
            ("/dev/disk/by-uuid/1-2", Source::Uuid("1-2".to_owned())),
            ("LABEL=\"var\"", label("var")),
            ("/dev/disk/by-label/my\\x20data", label("my data")),
            ("PARTUUID=1", Source::PartUuid("1".to_owned())),
            ("/dev/disk/by-partuuid/12345678-01", Source::PartUuid("12345678-01".to_owned())),
            ("PARTLABEL='Linux root'", Source::PartLabel("Linux root".to_owned())),
            ("/dev/disk/by-id/ata-VBOX_HARDDISK_VB1-part5", Source::Number(5)),
            ("/dev/disk/by-path/pci-0000:00:01.1-ata-1-part2", Source::Number(2)),
            ("/dev/disk/by-id/ata-VBOX_HARDDISK_VB1", Source::Unknown),
            ("/dev/nvme0n1p3", Source::Number(3)),
            ("/dev/sda12", Source::Number(12)),
            ("/dev/xvda1", Source::Number(1)),
            ("/dev/md0", Source::Unknown),
            ("/dev/mapper/vg-root1", Source::Unknown),
            ("ID=x", Source::Unknown),
        ] {
            assert_eq!(Source::parse(text), expected, "{text}");
        }
        let line = line("LABEL=my\\040data /srv/big\\040one btrfs rw,subvolid=257").unwrap();
        assert_eq!((line.source.as_str(), line.directory.as_str()), ("LABEL=my data", "srv/big one"));
        assert_eq!(line.subvolume.as_deref(), Some("subvolid=257"));
    }
}
