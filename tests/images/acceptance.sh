#!/bin/sh
# What every image must be able to do; run as a job's command in a VM of the image:  acceptance.sh ID VERSION
# The last line it prints is "accepted"; anything that does not work ends it with one line and code 1.
set -eu

fail() {
    echo "acceptance: $*" >&2
    exit 1
}

id=$1 version=$2

# The operating system is the image's.
# shellcheck source=/dev/null
. /etc/os-release
[ "$ID" = "$id" ] || fail "ID is '$ID', not '$id'"
[ "${VERSION_ID:-}" = "$version" ] || fail "VERSION_ID is '${VERSION_ID:-}', not '$version'"

# Programs find their libraries.
ls / >/dev/null || fail "ls does not run"
if [ "$id" = debian ]; then
    libraries=$(ldd /bin/ls) || fail "ldd does not run"
    ! echo "$libraries" | grep 'not found' || fail "libraries are missing"
    [ "$(echo '6 * 7' | bc)" = 42 ] || fail "bc cannot multiply"
    [ "$(perl -e 'print 6 * 7')" = 42 ] || fail "perl cannot multiply"
fi

# Users: this one, and those of the image.
[ "$(id -u)" -gt 0 ] || fail "it runs as root"
[ -n "$(id -un)" ] || fail "this user has no name"
grep -q '^root:' /etc/passwd || fail "there is no root in /etc/passwd"

# Places to write: the VM's own and the host's.
[ -k /tmp ] || fail "/tmp is not sticky"
echo mine >/tmp/acceptance.$$ || fail "/tmp cannot be written"
[ "$(cat /tmp/acceptance.$$)" = mine ] || fail "/tmp loses what is written"
echo host >"from-$id$version" || fail "the submit directory cannot be written"
echo home >"$HOME/.acceptance.$$" || fail "the home directory cannot be written"
rm "$HOME/.acceptance.$$"
! (echo theirs >/etc/acceptance) 2>/dev/null || fail "/etc can be written by a user"

# A shell without a locale, pipes, exit codes, arguments.
[ "$(printf 'b\na\nB\n' | LC_ALL=C sort | tr '\n' ' ')" = 'B a b ' ] || fail "sort and tr do not go together"
[ "$(seq 1 1000 2>/dev/null | wc -l)" -eq 1000 ] || fail "a pipe lost something"
code=0
sh -c 'exit $1' sh 7 || code=$?
[ "$code" -eq 7 ] || fail "an exit code of 7 became $code"
code=0
sh -c 'kill -TERM $$' || code=$?
[ "$code" -eq 143 ] || fail "SIGTERM became $code"
[ "$(sh -c 'echo "$2"' sh one 'two  words')" = 'two  words' ] || fail "arguments are changed"

# Devices and kernel file systems.
[ -c /dev/urandom ] || fail "/dev is not there"
[ -e /proc/self/status ] || fail "/proc is not there"
[ -d /sys/kernel ] || fail "/sys is not there"

echo accepted
