# shellcheck shell=bash
# Functions for every script of the harness: messages, waiting, running commands as another user.

# Progress goes to stderr: stdout is for the output that a command gives its caller.
say() { printf '%s: %s\n' "${PROGRAM:-cluster}" "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

need_root() {
    [[ $EUID -eq 0 ]] || die "'$1' starts daemons that run jobs as other users, so it needs root: run it with sudo"
}

need_command() {
    local command
    for command in "$@"; do
        command -v "$command" >/dev/null ||
            die "the program '$command' is not installed: run packaging/debian-deps (or 'make deps')"
    done
}

# wait_until SECONDS COMMAND...: polls the command; fails when it did not succeed in time.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

# The account that submits test jobs: the user who called sudo, else an account made for this. Never
# root: a job of root would hide every mistake with permissions.
job_user() {
    local name=vmdemo
    if [[ -n ${SUDO_USER:-} && $SUDO_USER != root ]] && id "$SUDO_USER" >/dev/null 2>&1; then
        printf '%s\n' "$SUDO_USER"
        return
    fi
    if ! id "$name" >/dev/null 2>&1; then
        need_root user
        useradd --create-home --home-dir "/home/$name" --shell /bin/bash "$name" >&2 ||
            die "could not create the account '$name' that jobs run as: see the message above"
        say "created the account '$name' (home /home/$name) that jobs run as; remove it with: userdel -r $name"
    fi
    printf '%s\n' "$name"
}

home_of() { getent passwd "$1" | cut -d: -f6; }

# as_user NAME COMMAND...: runs it with all ids and groups of the user; no right of root is left.
as_user() {
    local name=$1
    shift
    setpriv --reuid "$name" --regid "$(id -g "$name")" --init-groups -- "$@"
}

# Checks that the user can read every file below PATH and enter every directory above it.
user_can_read() {
    local name=$1 path=$2
    as_user "$name" test -r "$path" || return 1
    [[ ! -d $path ]] || [[ -z $(as_user "$name" find -L "$path" \( -type d ! -executable -o ! -readable \) -print -quit 2>&1) ]]
}
