# shellcheck shell=bash
# Draws times as bars: in a terminal, and as an SVG. Each line that is read is NAME|BEST|MEDIAN|WORST, in milliseconds.

# The widest bar, in characters and in the picture's units.
PICTURE_COLUMNS=40
PICTURE_BAR=380

# longest FILE: the largest of all times.
longest() { cut -d'|' -f4 "$1" | sort -n | tail -n 1; }

# bars FILE: to stdout.
bars() {
    local most name best median worst length
    most=$(longest "$1")
    printf '%-26s %8s %8s %8s\n' '' best median worst
    while IFS='|' read -r name best median worst; do
        length=$(((median * PICTURE_COLUMNS + most / 2) / most))
        printf '%-26s %8d %8d %8d  %s\n' "$name" "$best" "$median" "$worst" "$(printf '%*s' "$length" '' | tr ' ' '#')"
    done <"$1"
}

# svg FILE TITLE NOTE: to stdout. The bar is the median; the line through its end goes from the best to the worst.
svg() {
    local most name best median worst y=56 rows height
    most=$(longest "$1") rows=$(wc -l <"$1")
    height=$((rows * 34 + 92))
    cat <<HEAD
<svg xmlns="http://www.w3.org/2000/svg" width="680" height="$height" viewBox="0 0 680 $height" font-family="sans-serif" font-size="13">
<title>$2</title>
<rect width="680" height="$height" fill="#ffffff"/>
<text x="16" y="28" font-size="15" font-weight="bold" fill="#1f2328">$2</text>
HEAD
    while IFS='|' read -r name best median worst; do
        bar "$name" "$best" "$median" "$worst" "$most" "$y"
        y=$((y + 34))
    done <"$1"
    printf '<text x="16" y="%d" font-size="11" fill="#59636e">%s</text>\n</svg>\n' "$((height - 16))" "$3"
}

# bar NAME BEST MEDIAN WORST MOST Y
bar() {
    local scale=$5 y=$6 left=190 fill='#0969da'
    [[ $1 != bare* ]] || fill='#8c959f'
    x() { echo $((left + $1 * PICTURE_BAR / scale)); }
    printf '<text x="%d" y="%d" text-anchor="end" fill="#1f2328">%s</text>\n' $((left - 10)) $((y + 14)) "$1"
    printf '<rect x="%d" y="%d" width="%d" height="20" fill="%s"/>\n' "$left" "$y" $(($3 * PICTURE_BAR / scale)) "$fill"
    printf '<path d="M%d %dH%d" stroke="#1f2328" stroke-width="2"/>\n' "$(x "$2")" $((y + 10)) "$(x "$4")"
    printf '<text x="%d" y="%d" fill="#1f2328">%d ms</text>\n' $(($(x "$4") + 8)) $((y + 14)) "$3"
}
