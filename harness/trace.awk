# SPDX-License-Identifier: GPL-2.0
# From trace-cmd's report of events kvm:kvm_follow_pfn, write the same tables to the
# files TXT, as text, and HTML, as a page; FILE in the environment names the recording.
# The exit status is 3 without a lookup, 4 if one is not understood, 5 without a report.
#
# A lookup belongs to the memory that the last marker of its gfn names, which is a line
#	memory: NAME, gfn FIRST-LAST
# in trace_marker, without ", gfn ..." for all gfns; or else to the task that made it.

BEGIN {
	total = "all"
	nr_routes = split("fast slow remapped guest_memfd none", routes)
	for (i = 1; i <= nr_routes; i++)
		is_route[routes[i]] = 1
}

# Hexadecimal numbers of one width compare as strings.
function wide(hex) {
	return substr("0000000000000000" hex, length(hex) + 1)
}

# A marker outlives those of which it has all the gfns.
function mark(name,    first, last, i, n, range) {
	first = wide("0")
	last = "ffffffffffffffff"
	if (match(name, /, gfn [0-9a-f]+-[0-9a-f]+$/)) {
		split(substr(name, RSTART + 6), range, "-")
		first = wide(range[1])
		last = wide(range[2])
		name = substr(name, 1, RSTART - 1)
	}
	for (i = 1; i <= nr_marks; i++)
		if (mark_first[i] < first || last < mark_last[i]) {
			n++
			mark_first[n] = mark_first[i]
			mark_last[n] = mark_last[i]
			mark_name[n] = mark_name[i]
		}
	nr_marks = ++n
	mark_first[n] = first
	mark_last[n] = last
	mark_name[n] = name
	if (!(name in lookups)) {
		lookups[name] = 0
		memories[++nr_memories] = name
	}
}

function row_of(gfn, task,    i) {
	for (i = nr_marks; i; i--)
		if (mark_first[i] <= gfn && gfn <= mark_last[i])
			return mark_name[i]
	task = "task " task
	if (!(task in lookups))
		tasks[++nr_tasks] = task
	return task
}

# One more lookup of ROW, which took ROUTE and ended with END.
function count(row, route, end) {
	lookups[row]++
	taken[row, route]++
	refcounted[row] += field["refcounted"]
	writable[row] += field["writable"]
	if (end != turn[row]) {
		end_turn(row)
		turn[row] = end
		nr_turns[row]++
	}
	repeated[row]++
}

# What came in turn is told of the first eight.
function end_turn(row) {
	if (nr_turns[row] && nr_turns[row] <= 8)
		in_turn[row] = in_turn[row] (nr_turns[row] > 1 ? ", " : "") turn[row] (repeated[row] > 1 ? " x" repeated[row] : "")
	else if (nr_turns[row] == 9)
		in_turn[row] = in_turn[row] ", ..."
	repeated[row] = 0
}

# A name may hold what a terminal obeys.
{ gsub(/[\001-\037\177]/, "?") }

/EVENTS DROPPED\]$/ { dropped++ }

/[0-9]: +print: / {
	sub(/^.*[0-9]: +print: +[^ ]+ /, "")
	if (sub(/^memory: /, ""))
		mark($0)
}

/[0-9]: +kvm_follow_pfn: / {
	task = $0
	sub(/-[0-9]+ +(\([-0-9 ]+\) +)?\[[0-9]+\].*/, "", task)
	sub(/^ +/, "", task)
	sub(/^.*[0-9]: +kvm_follow_pfn: +/, "")
	split("", field)
	for (i = 1; i < NF; i += 2)
		field[$i] = $(i + 1)
	if (field["gfn"] !~ /^[0-9a-f]+$/ || !(field["route"] in is_route) || field["result"] == "" ||
	    field["refcounted"] !~ /^[01]$/ || field["writable"] !~ /^[01]$/) {
		print
		exit status = 4
	}
	route = end = field["route"]
	if (field["result"] != "ok") {
		route = "none"
		end = field["result"]
	}
	if (!ended[end]++)
		ends[++nr_ends] = end
	count(row_of(wide(field["gfn"]), task), route, end)
	count(total, route, end)
}

# The tables: cell[TABLE, ROW, COLUMN], with the heads in row 0. The cells of one
# column, bar[TABLE], are lists of routes and their percentages.
function put(t, row, what) {
	cell[t, row, ++nr_cells[t, row]] = what
}

function put_row(row,    r, i, n, list) {
	end_turn(row)
	r = ++nr_rows[1]
	put(1, r, row)
	put(1, r, lookups[row])
	for (i = 1; i <= nr_routes; i++) {
		n = taken[row, routes[i]] + 0
		put(1, r, n)
		if (n)
			list = list sprintf("%s %.1f ", routes[i], 100 * n / lookups[row])
	}
	put(1, r, refcounted[row] + 0)
	put(1, r, writable[row] + 0)
	put(1, r, list)
	put(1, r, row == total ? "" : in_turn[row])
}

function put_end(end,    r, percent) {
	percent = sprintf("%.1f", 100 * ended[end] / lookups[total])
	r = ++nr_rows[2]
	put(2, r, end)
	put(2, r, ended[end])
	put(2, r, percent)
	put(2, r, (end in is_route ? end : "none") " " percent)
}

# A letter for each route, WIDTH of them for 100 %.
function letters(list, width,    n, i, sum, part, line) {
	n = split(list, part, " ")
	for (i = 1; i < n; i += 2) {
		sum += part[i + 1]
		while (length(line) < int(sum * width / 100 + .5))
			line = line substr(part[i], 1, 1)
	}
	return line == "" ? substr(part[1], 1, 1) : line
}

function put_text(t, title, bar_width,    row, col, width, what, line) {
	for (row = 0; row <= nr_rows[t]; row++)
		for (col = 1; col <= nr_cells[t, 0]; col++)
			if (col != bar[t] && length(cell[t, row, col]) > width[col])
				width[col] = length(cell[t, row, col])
	width[bar[t]] = bar_width
	print "\n" title "\n" >TXT
	for (row = 0; row <= nr_rows[t]; row++) {
		line = ""
		for (col = 1; col <= nr_cells[t, 0]; col++) {
			what = cell[t, row, col]
			if (row && col == bar[t])
				what = letters(what, bar_width)
			line = line sprintf("%" (col == 1 || col >= bar[t] ? "-" : "") width[col] "s  ", what)
		}
		sub(/ +$/, "", line)
		print line >TXT
	}
}

function escape(s) {
	gsub(/&/, "\\&amp;", s)
	gsub(/</, "\\&lt;", s)
	gsub(/>/, "\\&gt;", s)
	gsub(/"/, "\\&quot;", s)
	return s
}

function bars(list,    n, i, part, line) {
	n = split(list, part, " ")
	for (i = 1; i < n; i += 2)
		line = line "<i class=\"" part[i] "\" style=\"width:" part[i + 1] "%\">" part[i] "</i>"
	return line
}

function put_page(t, title,    row, col, class, what) {
	print "<table>\n<caption>" title "</caption>" >HTML
	for (row = 0; row <= nr_rows[t]; row++) {
		printf "<tr>" >HTML
		for (col = 1; col <= nr_cells[t, 0]; col++) {
			what = escape(cell[t, row, col])
			class = !row && what in is_route ? what : col >= bar[t] ? "left" : ""
			if (class != "")
				class = " class=\"" class "\""
			if (!row)
				what = "<th scope=\"col\"" class ">" what "</th>"
			else if (col == 1)
				what = "<th scope=\"row\">" what "</th>"
			else if (col == bar[t])
				what = "<td class=\"bar\" aria-hidden=\"true\">" bars(what) "</td>"
			else
				what = "<td" class ">" what "</td>"
			printf "%s", what >HTML
		}
		print "</tr>" >HTML
	}
	print "</table>" >HTML
}

END {
	if (status || !lookups[total])
		exit status ? status : NR ? 3 : 5

	put(1, 0, "memory")
	put(1, 0, "lookups")
	for (i = 1; i <= nr_routes; i++)
		put(1, 0, routes[i])
	put(1, 0, "refcounted")
	put(1, 0, "writable")
	put(1, 0, "share")
	put(1, 0, "in turn")
	bar[1] = nr_cells[1, 0] - 1
	for (i = 1; i <= nr_memories; i++)
		put_row(memories[i])
	for (i = 1; i <= nr_tasks; i++)
		put_row(tasks[i])
	put_row(total)

	put(2, 0, "ended")
	put(2, 0, "lookups")
	put(2, 0, "%")
	put(2, 0, "share")
	bar[2] = nr_cells[2, 0]
	for (i = 1; i <= nr_routes; i++)
		if (routes[i] in ended)
			put_end(routes[i])
	for (i = 1; i <= nr_ends; i++)
		if (!(ends[i] in is_route))
			put_end(ends[i])

	title = "Lookups by kvm_follow_pfn in " ENVIRON["FILE"]
	gsub(/[\001-\037\177]/, "?", title)
	lost = !dropped ? "" : "Gaps where events were lost, because the buffers of the kernel were full: " dropped
	print title >TXT
	if (dropped)
		print lost >TXT
	put_text(1, "By memory", 10)
	put_text(2, "By route, or by error without one", 50)

	print "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">" >HTML
	print "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">" >HTML
	print "<title>" escape(title) "</title>\n<style>" >HTML
	print ":root { color-scheme: light dark; font-family: sans-serif }" >HTML
	print "table { border-collapse: collapse; margin: 2em 0 }" >HTML
	print "caption { text-align: left; font-weight: bold; padding: .3em 0 }" >HTML
	print "th, td { text-align: right; padding: .2em .6em; border-bottom: 1px solid #8886; white-space: nowrap }" >HTML
	print "th:first-child, .left { text-align: left }" >HTML
	print "td { font-variant-numeric: tabular-nums }" >HTML
	print ".bar { min-width: 10rem; font-size: 0; text-align: left }" >HTML
	print ".bar i { display: inline-block; height: 12px }" >HTML
	print "th.fast, th.slow, th.remapped, th.guest_memfd, th.none { border-bottom: 4px solid }" >HTML
	print "i.fast { background: #4a8f3c } th.fast { border-color: #4a8f3c }" >HTML
	print "i.slow { background: #3f7fd0 } th.slow { border-color: #3f7fd0 }" >HTML
	print "i.remapped { background: #d98c1f } th.remapped { border-color: #d98c1f }" >HTML
	print "i.guest_memfd { background: #9a5fc0 } th.guest_memfd { border-color: #9a5fc0 }" >HTML
	print "i.none { background: #d04848 } th.none { border-color: #d04848 }" >HTML
	print "</style>\n</head>\n<body>\n<h1>" escape(title) "</h1>" >HTML
	if (dropped)
		print "<p>" lost "</p>" >HTML
	put_page(1, "By memory")
	put_page(2, "By route, or by error without one")
	print "</body>\n</html>" >HTML
}
