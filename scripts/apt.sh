# Sourced by the other scripts: a Debian package where it can be installed, a word on what lacks it where it cannot.
#   apt_install PACKAGE COMMAND "what it is for"
apt_install() {
  local package="$1" command="$2" purpose="$3"
  if [ "$(uname)" != Linux ] || command -v "$command" >/dev/null; then
    return
  fi
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing $package: $purpose"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get --yes --quiet)
    "${apt[@]}" install "$package" >/dev/null 2>&1 ||
      { "${apt[@]}" update >/dev/null && "${apt[@]}" install "$package" >/dev/null; } ||
      echo "$package could not be installed: $purpose" >&2
  else
    echo "$package is missing: $purpose; install it with: sudo apt-get install $package" >&2
  fi
}
