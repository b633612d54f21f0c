//! Open files that one process hands to another over a socket.

#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Descriptors that one message carries at most: the kernel takes 253.
const FDS_MOST: usize = 128;

/// Longest text beside the descriptors.
const TEXT_MOST: usize = 1024;

/// Room for the control data of [`FDS_MOST`] descriptors, aligned as the kernel's header wants it.
#[repr(C, align(8))]
struct Control([u8; 16 + 4 * FDS_MOST]);

/// Sends descriptors and a text over a socket, so many messages as it takes; each carries the text.
///
/// # Errors
/// When the receiver is gone.
pub fn send(socket: BorrowedFd<'_>, text: &str, fds: &[RawFd]) -> io::Result<()> {
    let text = &text.as_bytes()[..text.len().min(TEXT_MOST)];
    let mut chunks: Vec<&[RawFd]> = fds.chunks(FDS_MOST).collect();
    if chunks.is_empty() {
        chunks.push(&[]);
    }
    for chunk in chunks {
        let mut control = Control([0; 16 + 4 * FDS_MOST]);
        let mut part = libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: text.len() };
        // SAFETY: msghdr is a C structure of numbers and pointers that may be null, for which zero is a value.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        if !chunk.is_empty() {
            message.msg_control = (&raw mut control).cast();
            let bytes = mem::size_of_val(chunk) as u32;
            // SAFETY: only arithmetic.
            message.msg_controllen = unsafe { libc::CMSG_SPACE(bytes) } as _;
            // SAFETY: the buffer has room for one header and `chunk`, and is aligned for it.
            unsafe {
                let header = libc::CMSG_FIRSTHDR(&raw const message);
                (*header).cmsg_level = libc::SOL_SOCKET;
                (*header).cmsg_type = libc::SCM_RIGHTS;
                (*header).cmsg_len = libc::CMSG_LEN(bytes) as _;
                std::ptr::copy_nonoverlapping(chunk.as_ptr().cast(), libc::CMSG_DATA(header), bytes as usize);
            }
        }
        // SAFETY: `message` points to buffers that live through the call.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Receives a message of [`send`]: its text and its descriptors, which are close-on-exec. An empty text is the end.
///
/// # Errors
/// When the socket fails, or this process may not have so many descriptors (EMFILE): those that it got are closed again,
/// because who sent them means all of them.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<(String, Vec<OwnedFd>)> {
    let mut text = [0_u8; TEXT_MOST];
    let mut control = Control([0; 16 + 4 * FDS_MOST]);
    let mut part = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: text.len() };
    // SAFETY: msghdr is a C structure of numbers and pointers that may be null, for which zero is a value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = mem::size_of::<Control>() as _;
    // SAFETY: `message` points to buffers that live through the call and are writable for the lengths it names.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    let mut fds = Vec::new();
    // SAFETY: the kernel filled the control buffer; the macros stay within the length that it wrote.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                for place in 0..bytes / mem::size_of::<RawFd>() {
                    let mut fd = [0; mem::size_of::<RawFd>()];
                    let at = libc::CMSG_DATA(header).add(place * fd.len());
                    std::ptr::copy_nonoverlapping(at, fd.as_mut_ptr(), fd.len());
                    fds.push(OwnedFd::from_raw_fd(RawFd::from_ne_bytes(fd)));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    Ok((String::from_utf8_lossy(&text[..count]).into_owned(), fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    #[test]
    fn files_arrive_open_with_the_text_and_the_end_is_an_empty_text() {
        let (here, there) = UnixStream::pair().unwrap();
        let zero = File::open("/dev/zero").unwrap();
        send(here.as_fd(), "ok", &[zero.as_raw_fd(); 3]).unwrap();
        let (text, mut fds) = receive(there.as_fd()).unwrap();
        assert_eq!((text.as_str(), fds.len()), ("ok", 3));
        let mut byte = [1];
        File::from(fds.remove(2)).read_exact(&mut byte).unwrap();
        assert_eq!(byte, [0]);
        drop(here);
        let (text, fds) = receive(there.as_fd()).unwrap();
        assert!(text.is_empty() && fds.is_empty());
    }

    #[test]
    fn a_process_that_may_not_have_all_of_them_gets_none() {
        const IS_CHILD: &str = "SPANK_VM_TEST_HAS_FEW_DESCRIPTORS";
        if std::env::var_os(IS_CHILD).is_none() {
            let name = "pass::tests::a_process_that_may_not_have_all_of_them_gets_none";
            let mut limited = Command::new("sh");
            limited.args(["-c", "ulimit -n 20 && exec \"$@\"", "sh"]).arg(std::env::current_exe().unwrap());
            let output = limited.args(["--exact", name, "--test-threads=1"]).env(IS_CHILD, "1").output().unwrap();
            assert!(output.status.success(), "{output:?}");
            return;
        }
        let (here, there) = UnixStream::pair().unwrap();
        send(here.as_fd(), "ok", &[here.as_raw_fd(); 30]).unwrap();
        assert_eq!(receive(there.as_fd()).unwrap_err().raw_os_error(), Some(libc::EMFILE));
        assert!(File::open("/dev/null").is_ok(), "none of them is left open");
    }
}
