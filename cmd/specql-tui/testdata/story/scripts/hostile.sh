# Tries to paint the operator's screen: clears it, moves the cursor, turns the
# reading direction round, writes wide characters and a false answer.
printf '\033[2J\033[H\033]0;owned\007\033[31mEVERYTHING IS FINE\033[0m\n' >&2
printf 'paid \xe2\x80\xae 0001 \xe2\x80\xac in full\n' >&2
printf '\xe4\xbe\xa1\xe6\xa0\xbc\xe2\x80\x8b\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x92\xbb wide\n' >&2
exit 3
