#!/bin/sh
# Asks PBS when a job ends: slot-end.sh JOB
# Prints the end in epoch seconds; with "all" after JOB: restarts, start and end.
# Prints nothing when it cannot be learned.
PATH=BIN_DIR${PATH:-/usr/bin:/bin}:/opt/pbs/bin:/usr/pbs/bin:/usr/local/bin
LC_ALL=C TZ=UTC
export PATH LC_ALL TZ
limit=
if command -v timeout > /dev/null 2>&1; then limit='timeout -k 1 5'; fi
$limit qstat -f "$1" 2> /dev/null | awk -v all="${2:-}" '
  # A tab: the rest of a value that was broken.
  /^\t/ { next }
  $2 != "=" { next }
  { name = tolower($1) }
  name == "job_state" { state = $3 }
  (name == "run_count" || name == "start_count") { runs = $3 }
  name == "resource_list.walltime" {
    parts = split($3, part, ":")
    walltime = 0
    weight = 1
    for (n = parts; n > 0; n--) {
      walltime += part[n] * weight
      weight *= (n == 2 && parts == 4) ? 24 : 60
    }
  }
  (name == "stime" || name == "start_time") && NF == 7 {
    month = (index("JanFebMarAprMayJunJulAugSepOctNovDec", $4) + 2) / 3
    year = $7
    if (month <= 2) { year--; month += 9 } else { month -= 3 }
    era = int(year / 400)
    yoe = year - era * 400
    doe = yoe * 365 + int(yoe / 4) - int(yoe / 100) + int((153 * month + 2) / 5) + $5 - 1
    split($6, clock, ":")
    start = (era * 146097 + doe - 719468) * 86400 + clock[1] * 3600 + clock[2] * 60 + clock[3]
  }
  END {
    if (state !~ /^[RSUE]$/ || start == 0 || walltime == 0) exit
    if (all == "") printf "%.0f\n", start + walltime
    else printf "%.0f %.0f %.0f\n", (runs > 1) ? runs - 1 : 0, start, start + walltime
  }'
