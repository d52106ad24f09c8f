// Until the charger has a session: the same address then leads to it.
setTimeout(() => location.reload(), 3000);
