-- A row's time is what its boot says of it, and may be known better later (place_rows in 0540): the rest of a row never changes.
GRANT UPDATE (at) ON ledger_rows TO stile_service;
