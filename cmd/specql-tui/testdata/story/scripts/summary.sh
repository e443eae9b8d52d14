echo '{"rows": 42}'
