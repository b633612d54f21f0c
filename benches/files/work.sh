# shellcheck shell=bash
# What is measured, in this directory: prints a line before and after each operation. Whoever reads them has the clock: that of
# an emulated machine may be wrong. A tree of directories and one of a thousand files are there already. FILES and MIB say how
# much, WHAT is "all" or "metadata".
cd "${SLURM_VM_INDEX:-.}" || exit
measured() {
    local name=$1
    shift
    echo "begin $name ${SLURM_VM_INDEX:-0}"
    "$@" >/dev/null || exit
    echo "end $name ${SLURM_VM_INDEX:-0}"
}
# The guest may believe what it knows for a second.
forget() { sleep 1.1; }
drop_data() { echo 3 >/proc/sys/vm/drop_caches; }
each_of_four() {
    local i
    for i in 1 2 3 4; do "$@" "$i" & done
    wait
}
write_one() { dd if=/dev/zero of="big$1" bs=1M count="${2:-$((MIB / 4))}" status=none; }
read_one() { dd if="big$1" of=/dev/null bs=1M status=none; }
create() {
    local i
    mkdir small || exit
    for ((i = 0; i < FILES; i++)); do echo "$i" >"small/$i"; done
}
read_small() {
    local file line
    for file in small/*; do read -r line <"$file"; done
    : "$line"
}
missing() {
    local i
    for ((i = 0; i < FILES; i++)); do [[ ! -e small/missing$i ]] || exit; done
}
untar() { mkdir untarred && tar xf small.tar -C untarred; }

measured create create
forget
measured find find flat -type f
forget
measured find-size find small -size 1
forget
measured ls-l ls -l small
forget
measured stat stat small/*
forget
measured missing missing
forget
measured find-tree find tree -type f
forget
measured ls-lR ls -lR tree
if [[ $WHAT == all ]]; then
    forget
    measured read-small read_small
    tar cf small.tar small
    measured untar untar
    measured write write_one 0 "$MIB"
    drop_data
    measured read read_one 0
    measured write-4-tasks each_of_four write_one
    drop_data
    measured read-4-tasks each_of_four read_one
fi
measured remove rm -r small
